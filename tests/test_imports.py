"""The house's rule of what may import what, read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "catdog_jax"

# numpy, jaxtyping and the standard library are everyone's.
COMMON = {"numpy", "jaxtyping"} | sys.stdlib_module_names
ALLOWED = {
    "__main__": {".cli"},
    "__init__": {".data", ".errors", ".evaluate", ".models", ".parallel", ".recipes", ".train"},
    "augment": {"jax"},
    "build": {"flax", "jax", ".augment", ".data", ".errors", ".models", ".recipes"},
    "cache": {"pooch", ".files"},
    "checkpoint": {"jax", "orbax", ".errors", ".files", ".report", ".train"},
    "cli": {
        "tyro",
        ".build",
        ".data",
        ".decode",
        ".errors",
        ".experiment",
        ".files",
        ".messages",
        ".models.keras_weights",
        ".recipes",
        ".reproduce",
        ".run_folder",
        ".sections",
    },
    "cut": {".errors", ".sources", ".splits"},
    "data": {
        "filelock",
        ".cache",
        ".cut",
        ".decode",
        ".errors",
        ".files",
        ".prepared",
        ".sources",
        ".splits",
        ".tfds",
    },
    "decode": {"tensorflow", "tqdm", ".errors", ".files", ".headers"},
    "download": {"filelock", "requests", "tqdm", ".errors", ".files"},
    "errors": set(),
    "evaluate": {"flax", "jax", "optax", ".errors", ".feed", ".parallel"},
    "experiment": {
        "flax",
        ".build",
        ".checkpoint",
        ".data",
        ".errors",
        ".evaluate",
        ".files",
        ".messages",
        ".parallel",
        ".recipes",
        ".report",
        ".run_folder",
        ".train",
    },
    "files": {"filelock", ".errors"},
    "feed": {"jax", ".parallel"},
    "headers": set(),
    "keras_files": {"h5py", ".errors"},
    "messages": {"tqdm", ".data", ".evaluate", ".recipes", ".report"},
    "models": {
        "flax",
        ".errors",
        ".models.cnn",
        ".models.keras_weights",
        ".models.mobilenet_v2",
        ".models.transfer",
    },
    "models.cnn": {"flax", "jax", ".augment", ".errors", ".ops"},
    "models.keras_weights": {
        "flax",
        "jax",
        ".cache",
        ".download",
        ".errors",
        ".files",
        ".models.mobilenet_v2",
    },
    "models.mobilenet_v2": {"flax", "jax", ".ops"},
    "models.transfer": {"flax", "jax", ".augment", ".models.cnn", ".models.mobilenet_v2"},
    "ops": {"jax"},
    "parallel": {"jax", ".cache"},
    "prepared": {".errors", ".files", ".sources", ".splits"},
    "recipes": {".data", ".errors"},
    "report": {"matplotlib", ".errors", ".files"},
    "reproduce": {
        ".build",
        ".errors",
        ".experiment",
        ".files",
        ".messages",
        ".parallel",
        ".recipes",
        ".report",
        ".run_folder",
        ".sections",
    },
    "run_folder": {".checkpoint", ".data", ".errors", ".files", ".recipes", ".report"},
    "sections": {"jax", ".augment", ".data", ".report"},
    "sketches": {"PIL"},
    "sources": {".decode", ".download", ".errors", ".files", ".sketches", ".splits"},
    "splits": {".errors", ".files"},
    "tfds": {"filelock", "tensorflow_datasets", ".decode", ".errors", ".sketches", ".sources"},
    "train": {
        "flax",
        "jax",
        "optax",
        ".augment",
        ".errors",
        ".evaluate",
        ".feed",
        ".parallel",
        ".ops",
    },
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(name: str, path: Path) -> set[str]:
    """What a module imports: outside packages by name, the package's own with a leading dot."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [] if name == "__init__" else package
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1]
            start = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = f"{start}.{alias.name}".strip(".")
                found.add("." + (inside if inside in MODULES else start))
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_the_layout_allows(name: str) -> None:
    assert imports(name, MODULES[name]) - COMMON <= ALLOWED[name]


def test_the_table_names_no_module_that_is_gone() -> None:
    assert set(ALLOWED) == set(MODULES)


@pytest.mark.parametrize("module", ["catdog_jax", "catdog_jax.train", "catdog_jax.experiment"])
def test_tensorflow_is_not_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_weights_needs_no_jax() -> None:
    """It is done by a process that is started for each file."""
    code = "import sys, catdog_jax.keras_files; assert not {'jax', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_is_light() -> None:
    code = "import sys, catdog_jax; assert not {'jax', 'flax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training_from_prepared_arrays_needs_no_tensorflow() -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import catdog_jax as cd\n"
        "splits = cd.load_data('sketches', 32, sizes=(4, 2, 2))\n"
        "assert len(cd.load_data(splits.folder, 32).train) == 4"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_had() -> None:
    import catdog_jax

    assert all(getattr(catdog_jax, name) is not None for name in catdog_jax.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        catdog_jax.no_such_name  # noqa: B018
