"""Code by name: `FILE.py:NAME` and `package.module:NAME`, called with the arguments it takes.

    load("my_net.py:Net")                      # the class
    call(net, {"rngs": rngs, "image_size": 32, "num_classes": 2}, {"width": 8}, "my_net.py:Net")

The SHA-256 of the file is part of a run's identity. Known blind spot: the files it imports are not.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import InputError, first_line
from ..files import expanded, sha256


def is_code(name: str) -> bool:
    """Whether `name` is a `FILE.py:NAME` or a `package.module:NAME`."""
    return ":" in name


def place(name: str) -> Path | str:
    """The file of `FILE.py:NAME`, or the module of `package.module:NAME`."""
    before = name.rpartition(":")[0]
    return expanded(before) if before.endswith(".py") else before


def short(name: str) -> str:
    """`my_net.py:Net` without the path; built-in names as they are."""
    before, colon, attribute = name.rpartition(":")
    return f"{Path(before).name}{colon}{attribute}"


def source(name: str) -> Path | None:
    """The file that defines `name`; None if Python cannot find it.

    Raises:
        InputError: one of its parent packages cannot be imported.
    """
    where = place(name)
    if isinstance(where, Path):
        return where
    try:
        spec = importlib.util.find_spec(where)
    except Exception as error:  # importing packages can raise anything
        raise InputError(f"{where} cannot be imported ({where_it_failed(error)})") from error
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def load(name: str) -> Any:
    """The object that `name` names.

    Raises:
        InputError: there is no such file, module or object, or importing it fails.
    """
    attribute, where = name.rpartition(":")[2], place(name)
    module = _import_file(where) if isinstance(where, Path) else _import_module(where)
    if not hasattr(module, attribute):
        own = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        raise InputError(f"{where} has no {attribute!r}; it has: {', '.join(own)}")
    return getattr(module, attribute)


def find(name: str, ours: Mapping[str, Any], what: str) -> Any:
    """The object called `name`: one of `ours`, or your code.

    Raises:
        InputError: there is none.
    """
    if is_code(name):
        return load(name)
    if name not in ours:
        raise unknown(name, ours, what)
    return ours[name]


def unknown(name: str, ours: Iterable[str], what: str) -> InputError:
    """An error that lists the known names."""
    choices = ", ".join(ours)
    return InputError(
        f"unknown {what} {name!r}; choose one of: {choices}; or your own FILE.py:NAME"
    )


def options(texts: Collection[str]) -> dict[str, Any]:
    """`("width=8", "norm='batch'")` as keyword arguments.

    Raises:
        InputError: one is not NAME=VALUE with a Python literal.
    """
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise InputError(
                f"{text!r} is not NAME=VALUE with a Python value: 3, 0.5, True, None, (1, 2) or "
                "'text' in quotes"
            ) from error
    return found


def call(
    function: Any, offered: Mapping[str, Any], chosen: Mapping[str, Any] | None = None, *, name: str
) -> Any:
    """Call `function` with `chosen`, and with those of `offered` that its signature accepts.

    Raises:
        InputError: it does not accept a chosen argument, or raises an error; names `name`.
    """
    chosen = chosen or {}
    try:
        # Of __init__: nnx.Module's metaclass accepts anything.
        signed = inspect.signature(function.__init__ if isinstance(function, type) else function)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be called ({first_line(error)})") from error
    parameters = {n: p for n, p in signed.parameters.items() if n != "self"}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in chosen:
        if option not in parameters and not takes_all:
            takes = ", ".join(n for n in parameters if n not in offered) or "none"
            raise InputError(f"{name} takes no argument {option!r}; it takes: {takes}")
    arguments = {n: value for n, value in offered.items() if n in parameters or takes_all}
    try:
        return function(**{**arguments, **chosen})
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} failed ({where_it_failed(error)})") from error


def _import_file(path: Path) -> ModuleType:
    try:
        name = f"_{path.stem}_{sha256(path)[:16]}"  # one module, however often it is loaded
    except (OSError, ValueError) as error:  # ValueError: no possible path
        raise InputError(f"{path} cannot be read ({first_line(error)})") from error
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as for a script, so that it can import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{path} cannot be imported ({where_it_failed(error)})") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError(f"{name} cannot be imported ({where_it_failed(error)})") from error


def where_it_failed(error: Exception) -> str:
    """The type and message of an error in a user's code, and the line where it happened."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))
    theirs = [f for f in frames if f[0] != __file__ and "-packages" not in f[0] and f[0][:1] != "<"]
    where = f", {Path(theirs[-1][0]).name} line {theirs[-1][1]}" if theirs else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
