"""Arguments of a command → its options, by tyro; what is wrong with them in one line."""

import contextlib
import difflib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import dropwhile, takewhile
from typing import Any, TypeVar

import tyro

from .errors import InputError
from .runs.experiment import Experiment

Options = TypeVar("Options")
Changes = Mapping[str, Any]
"""The settings of an experiment that were given, by name."""


def parse(
    kind: type[Options], args: Sequence[str], prog: str, default: Options | None = None
) -> tuple[Options, Changes]:
    """The options that `args` give, and of an experiment's settings those that were given.

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
    if unknown:
        names = [f"--{field.name.replace('_', '-')}" for field in fields(kind)]  # pyright: ignore
        wrong = f"{'option' if unknown[0].startswith('-') else 'argument'}: {unknown[0]}"
        raise InputError(f"unexpected {wrong}{nearest(unknown[0], names)}; see {prog} --help")
    given = {word[2:].partition("=")[0].replace("-", "_") for word in args if word[:2] == "--"}
    settings = [field.name for field in fields(Experiment) if field.name in given]
    return options, {name: getattr(options, name) for name in settings}


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
