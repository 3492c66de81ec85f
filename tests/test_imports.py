"""Which modules may import which, and what the public names are."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "catdog_jax"
# A folder imports only itself, those before it here, and errors, files and cores, which all share.
LAYERS = ["data", "models", "training", "reports", "runs", "exports", "serve", "commands"]
ROOT = {"errors", "files", "cores"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/*.py")), ids=lambda path: str(path)[-40:])
def test_a_layer_imports_only_those_before_it(path: Path) -> None:
    allowed = {*LAYERS[: LAYERS.index(path.parent.name) + 1], *ROOT}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            assert str(node.module).split(".")[0] in allowed, ast.unparse(node)
        assert not (isinstance(node, ast.ImportFrom) and "catdog_jax" in str(node.module))


def fresh(code: str) -> None:
    """Run code in a process of its own."""
    subprocess.run([sys.executable, "-c", f"import sys\n{code}"], check=True)


@pytest.mark.parametrize("module", ["catdog_jax.training.loop", "catdog_jax.runs.runner"])
def test_training_imports_neither_tensorflow_nor_matplotlib(module: str) -> None:
    fresh(f"import {module}; assert not {{'tensorflow', 'matplotlib'}} & set(sys.modules)")


@pytest.mark.parametrize("module", ["catdog_jax", "catdog_jax.cli"])
def test_the_package_and_its_command_line_are_light(module: str) -> None:
    heavy = {"jax", "flax", "optax", "orbax", "matplotlib", "tensorflow", "PIL", "h5py", "scipy"}
    heavy |= {"starlette", "uvicorn"}
    fresh(f"import {module}; assert not {heavy} & set(sys.modules)")


def test_training_from_prepared_arrays_needs_no_tensorflow() -> None:
    fresh(
        "sys.modules['tensorflow'] = None\n"
        "import catdog_jax as cd\n"
        "splits = cd.load_data('sketches', 32, sizes=(4, 2, 2))\n"
        "assert len(cd.load_data(splits.folder, 32, sizes=(4, 2, 2)).train) == 4"
    )


KINDS = {
    "RECIPES": "Mapping",
    **dict.fromkeys(["Experiment", "InputError", "RunError", "Split", "Splits"], "class"),
}


def test_every_public_name_is_what_it_says_in_a_fresh_process() -> None:
    """Also after all modules were imported: `catdog_jax.evaluate`, the module, once hid the
    function."""
    fresh(
        "import inspect, pkgutil, importlib, collections.abc\n"
        "import catdog_jax as cd\n"
        f"kinds = {KINDS}\n"
        "tests = {'class': inspect.isclass, 'function': inspect.isfunction,\n"
        "         'Mapping': lambda value: isinstance(value, collections.abc.Mapping)}\n"
        "def check():\n"
        "    for name in cd.__all__:\n"
        "        assert tests[kinds.get(name, 'function')](getattr(cd, name)), name\n"
        "check()\n"
        "for module in pkgutil.walk_packages(cd.__path__, 'catdog_jax.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "check()\n"
        "assert set(dir(cd)) <= set(cd.__all__)"
    )


def test_the_public_names_have_docstrings_and_there_are_no_others() -> None:
    import catdog_jax

    for name in set(catdog_jax.__all__) - {"RECIPES"}:
        assert inspect.getdoc(getattr(catdog_jax, name)), name
    with pytest.raises(AttributeError, match="no_such_name"):
        catdog_jax.no_such_name  # noqa: B018
