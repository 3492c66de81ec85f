"""The command line: `catdog-jax train model3 --data PATH` and its siblings."""

import contextlib
import difflib
import io
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from itertools import dropwhile, takewhile
from typing import Any, TypeVar, get_type_hints

import tyro

from .commands.options import Compare, Data, Demo, Evaluate, Export, Predict, Report, Serve
from .commands.photos import demo, predict_photos, serve_page, show_data
from .commands.processes import leaving
from .commands.runs import compare_runs, evaluate_run, export_run, report_runs
from .commands.settings import SWEPT, LrFind, Reproduce, Settings, Sweep, Train
from .commands.training import find_rate, reproduce, sweep, train
from .errors import InputError, guarded, say
from .runs.experiment import Experiment
from .runs.recipes import RECIPES, recipe

Options = TypeVar("Options")

Command = Callable[[Any], object]

_COMMANDS: dict[str, tuple[type, Command]] = {
    "demo": (Demo, demo),
    "data": (Data, show_data),
    "train": (Train, train),
    "sweep": (Sweep, sweep),
    "compare": (Compare, compare_runs),
    "report": (Report, report_runs),
    "lr-find": (LrFind, find_rate),
    "reproduce": (Reproduce, reproduce),
    "evaluate": (Evaluate, evaluate_run),
    "predict": (Predict, predict_photos),
    "export": (Export, export_run),
    "serve": (Serve, serve_page),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 1 (a run failed), 2 (wrong input) or 130 (Ctrl-C)."""
    logging.basicConfig(format="note: %(message)s")
    words = list(sys.argv[1:] if args is None else args)
    return leaving(lambda: guarded(lambda: parsed(words)()))


def parsed(args: list[str]) -> Callable[[], object]:
    """The command in `args`, ready to run."""
    name, *rest = args or [""]
    if name in ("-h", "--help"):
        return _help
    if name == "--version":
        return lambda: say(version("catdog_jax"))
    if name not in _COMMANDS:
        wrong = f"no command {name}" if name else "no command given"
        hint = nearest(name, _COMMANDS) or f"; choose one of: {', '.join(_COMMANDS)}"
        raise InputError(f"{wrong}{hint} (see catdog-jax --help)")
    kind, command = _COMMANDS[name]
    return partial(command, parse(kind, rest, f"catdog-jax {name}"))


def _help() -> None:
    say("usage: catdog-jax COMMAND [OPTIONS]; COMMAND --help lists its options, with an example")
    for command, (kind, _) in _COMMANDS.items():
        say(f"  {command:<9}  {str(kind.__doc__).splitlines()[0]}")
    say("  --version")


def script(main: Callable[..., object]) -> None:
    """Run a script: the parameters of `main` are its options; errors are told in one line."""
    sys.exit(guarded(lambda: tyro.cli(main)))


def command_script(kind: type, command: Command, *args: str) -> None:
    """Run a script that has a command's options, after `args`."""
    prog = f"python {sys.argv[0]}"
    sys.exit(guarded(lambda: command(parse(kind, [*args, *sys.argv[1:]], prog))))


def parse(kind: type[Options], args: Sequence[str], prog: str) -> Options:
    """The options that `args` give.

    Raises:
        InputError: an option is unknown, or a value is not of its type.
        SystemExit: after `--help`.
    """
    default: Any = tyro.MISSING_NONPROP
    if issubclass(kind, Settings):
        known = [word for word in args if word in RECIPES]
        model = next((word for word in [*known, *args] if not word.startswith("-")), "")
        shown = RECIPES["model3"] if issubclass(kind, Reproduce) else recipe(model)
        values: dict[str, Any] = {**vars(shown), "model": ""}
        if issubclass(kind, Sweep):
            values |= {name: (values[name],) for name in SWEPT}
        default = kind(**values)
    if {"-h", "--help"} & set(args):
        args = ["--help"]  # given positional arguments would be missing from the help
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, unknown = tyro.cli(
                kind,
                prog=prog,
                args=args,
                default=default,
                return_unknown_args=True,
                config=(tyro.conf.SuppressFixed,),
            )
    except SystemExit as end:
        if end.code:
            raise InputError(
                f"{_what_is_wrong(said.getvalue(), args)}; see {prog} --help"
            ) from None
        raise
    if unknown and unknown[0].startswith("-"):
        names = _options(kind)
        raise InputError(f"no option {unknown[0]}{nearest(unknown[0], names)}; see {prog} --help")
    if unknown:
        raise InputError(f"unexpected argument {unknown[0]}; see {prog} --help")
    if not isinstance(options, Settings):
        return options
    given = {word[2:].partition("=")[0].replace("-", "_") for word in args if word[:2] == "--"}
    settings = [field.name for field in fields(Experiment) if field.name in given]
    return replace(options, changes={name: getattr(options, name) for name in settings})


def _options(kind: type) -> list[str]:
    """The names of its options, without arguments that are given by their place, or not at all."""
    hints = get_type_hints(kind, include_extras=True)
    marks = {name: {*map(str, getattr(h, "__metadata__", ()))} for name, h in hints.items()}
    shown = [name for name, found in marks.items() if not found & {"Positional", "Fixed"}]
    return [f"--{name.replace('_', '-')}" for name in shown]


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean --learning-rate?`, for `--learn_rate` as for its initials `--lr`, or ``."""
    by_initials = {"--" + "".join(part[:1] for part in one.split("-")): one for one in names}
    alike = [by_initials.get(name), *difflib.get_close_matches(name, names, 1)]
    return next((f"; did you mean {one}?" for one in alike if one), "")


def _what_is_wrong(box: str, args: Sequence[str]) -> str:
    """What a tyro error box says, in one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines()[1:]]
    within = dropwhile(_is_rule, lines)
    text = " ".join(takewhile(lambda line: not _is_rule(line), within)).rstrip(".")
    if option := re.match(r"Error parsing (--[\w-]+):", text):
        return _wrong_value(option[1], lines, args) or text
    return text


def _wrong_value(option: str, lines: Sequence[str], args: Sequence[str]) -> str | None:
    """`--epochs takes INT, not many`; None if the box's `lines` or `args` lack that option."""
    helped = [line for line in lines if line.startswith(f"{option} ")]
    words = [part for word in args for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    names = [word.replace("_", "-") for word in words]
    if option not in names or not helped:
        return None
    kinds = re.sub(r"[{}]", "", helped[0].split(maxsplit=1)[1]).split("|")
    given = words[len(names) - names[::-1].index(option) :]  # the last time counts
    if "[" not in kinds[-1]:  # else it takes any number of words
        given = given[: len(kinds[-1].split())]
    given = takewhile(lambda word: word[:2] != "--", given)
    return f"{option} takes {' or '.join(kinds)}, not {' '.join(given)}"


def _is_rule(line: str) -> bool:
    return not line.strip("─-╰╯")
