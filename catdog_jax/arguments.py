"""Arguments of a command → its options, by tyro; what is wrong with them, in one line."""

import contextlib
import difflib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import dropwhile, takewhile
from typing import Annotated, Any, TypeVar

import tyro

from .errors import InputError
from .runs.experiment import Experiment

Options = TypeVar("Options")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Settings(Experiment):
    """An experiment's settings as options. The experiment that is made of them checks them."""

    stop_when_dead: tyro.conf.FlagConversionOff[bool] = True
    strict: Flag = False  # Stop if a photo cannot be read or is passed over.
    changes: tyro.conf.Fixed[Mapping[str, Any]] = field(default_factory=dict)
    """The settings that were given, by name."""

    def __post_init__(self) -> None:
        """Check nothing."""

    def adapt(self, recipe: Experiment) -> Experiment:
        """The recipe with those changes that it has a use for."""
        unused = {"weights": "none", "trainable": "all", "model_options": ()}
        skip = {name for name, value in unused.items() if getattr(recipe, name) == value}
        return replace(recipe, **{k: v for k, v in self.changes.items() if k not in skip})


def parse(
    kind: type[Options], args: Sequence[str], prog: str, default: Options | None = None
) -> Options:
    """The options that `args` give.

    Raises:
        InputError: an option is unknown, or a value is not of its type.
        SystemExit: after `--help`.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, unknown = tyro.cli(
                kind,
                prog=prog,
                args=args,
                default=tyro.MISSING_NONPROP if default is None else default,
                return_unknown_args=True,
                config=(tyro.conf.SuppressFixed,),
            )
    except SystemExit as end:
        if end.code:
            raise InputError(f"{_first_part(said.getvalue())}; see {prog} --help") from None
        raise
    if unknown and unknown[0].startswith("-"):
        names = [f"--{field.name.replace('_', '-')}" for field in fields(kind)]  # pyright: ignore
        raise InputError(f"no option {unknown[0]}{nearest(unknown[0], names)}; see {prog} --help")
    if unknown:
        raise InputError(f"unexpected argument {unknown[0]}; see {prog} --help")
    if not isinstance(options, Settings):
        return options
    given = {word[2:].partition("=")[0].replace("-", "_") for word in args if word[:2] == "--"}
    names = [field.name for field in fields(Experiment) if field.name in given]
    return replace(options, changes={name: getattr(options, name) for name in names})


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean --learning-rate?`, for `--learn_rate` as for its initials `--lr`, or ``."""
    by_initials = {"--" + "".join(part[:1] for part in one.split("-")): one for one in names}
    alike = [by_initials.get(name), *difflib.get_close_matches(name, names, 1)]
    return next((f"; did you mean {one}?" for one in alike if one), "")


def _first_part(box: str) -> str:
    """What one of tyro's boxes says above its first inner rule, in one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines()[1:]]
    within = dropwhile(_is_rule, lines)
    return " ".join(takewhile(lambda line: not _is_rule(line), within)).rstrip(".")


def _is_rule(line: str) -> bool:
    return not line.strip("─-╰╯")
