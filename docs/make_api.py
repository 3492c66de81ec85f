"""Write `docs/api.md`, the public names of the package, from their docstrings.

python docs/make_api.py
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import docstring_parser

import catdog_jax as cd
from catdog_jax.runs.predictions import Predictions
from catdog_jax.runs.results import Run
from catdog_jax.training.loop import EpochRecord
from catdog_jax.training.metrics import Metrics
from catdog_jax.training.state import TrainState

RETURNED = (Run, Predictions, EpochRecord, Metrics, TrainState)
PAGE = Path(__file__).with_name("api.md")
HEAD = """# The public names

`import catdog_jax as cd`. Made from the docstrings by `python docs/make_api.py`.
"""


def page() -> str:
    """The whole page, in Markdown."""
    what_they_return = ["# What they return", "", *map(returned, RETURNED)]
    return "\n".join([HEAD, *(section(name) for name in cd.__all__), *what_they_return])


def section(name: str) -> str:
    """A name's signature and what its docstring says."""
    thing = getattr(cd, name)
    if not callable(thing):
        return f"## {name}\n\nAn `Experiment` for each model: {', '.join(thing)}.\n"
    text = docstring_parser.parse(thing.__doc__, docstring_parser.DocstringStyle.GOOGLE)
    lines = [f"## {name}", ""]
    if inspect.isfunction(thing):
        lines += ["```py", signature(thing), "```", ""]
    lines += [prose(text.short_description), ""]
    if text.long_description:
        lines += [text.long_description, ""]
    if is_dataclass(thing):
        lines += [*settings(thing, text), ""]
    else:
        lines += [f"- `{param.arg_name}`: {prose(param.description)}" for param in text.params]
        lines += [""] if text.params else []
    if text.returns:
        lines += [f"Returns: {prose(text.returns.description)}", ""]
    if text.raises:
        lines += [f"- Raises `{one.type_name}`: {prose(one.description)}" for one in text.raises]
        lines += [""]
    return "\n".join(lines)


def returned(kind: type) -> str:
    """The fields, properties and methods of a class that public functions return."""
    of_attributes = docstring_parser.parse_from_object(kind).params
    meanings = {param.arg_name: prose(param.description) for param in of_attributes}
    lines = [f"## {kind.__name__}", "", prose(inspect.getdoc(kind)), ""]
    names = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    lines += [f"- `{name}`: {meanings.get(name, '')}".removesuffix(": ") for name in names]
    for name, member in vars(kind).items():
        if name[0] != "_" and name not in names and inspect.getdoc(member):
            call = "()" if inspect.isfunction(member) or isinstance(member, classmethod) else ""
            first = str(inspect.getdoc(member)).splitlines()[0]
            lines.append(f"- `{name}{call}`: {prose(first)}")
    return "\n".join([*lines, ""])


def signature(function: Any) -> str:
    """The lines of a function's definition, as they are in its source."""
    source = textwrap.dedent(inspect.getsource(function))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    head = source.splitlines()[definition.lineno - 1 : definition.body[0].lineno - 1]
    return "\n".join(head).rstrip(":")


def settings(kind: Any, text: docstring_parser.Docstring) -> Iterable[str]:
    """A table of a dataclass's fields."""
    of_attributes = docstring_parser.parse_from_object(kind).params
    meanings = {p.arg_name: prose(p.description) for p in [*of_attributes, *text.params]}
    yield "| name | default | meaning |"
    yield "|---|---|---|"
    for field in fields(kind):
        default = "" if field.default is MISSING else f"`{field.default!r}`"
        if field.default_factory is not MISSING:
            default = f"`{field.default_factory()!r}`"
        yield f"| `{field.name}` | {default} | {meanings.get(field.name, '')} |"


def prose(text: str | None) -> str:
    """A paragraph in one line, which Markdown's tables and lists need."""
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
