"""The house's rule of what may import what, read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "catdog_jax"

# A folder imports only itself, those before it, and the errors and files that all of them share.
LAYERS = ["data", "models", "training", "reports", "runs"]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/*.py")), ids=str)
def test_a_layer_imports_only_those_before_it(path: Path) -> None:
    later = {*LAYERS[LAYERS.index(path.parent.name) + 1 :], "cli"}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            assert str(node.module).split(".")[0] not in later, ast.unparse(node)


@pytest.mark.parametrize("module", ["", ".training.loop", ".runs.runner"])
def test_tensorflow_is_not_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, catdog_jax{module}; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_weights_needs_no_jax() -> None:
    """It is done by a process that is started for each file."""
    code = (
        "import sys, catdog_jax.models.keras_files; assert not {'jax', 'flax'} & set(sys.modules)"
    )
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
