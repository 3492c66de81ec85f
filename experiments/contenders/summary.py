"""Summarizes the benchmark: medians, ratios within rounds, targets, tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from catdog_jax.reports.tables import table_line
from catdog_jax.runs.history import DEAD_LOSS

from .worker import FINE_TUNED

Turn = Mapping[str, Any]
"""One run of one workload: `work` (its name), `contender`, `round`, `error` and measurements."""

OURS = "catdog_jax"
KERAS_TENSORFLOW, KERAS_JAX = "keras-tensorflow", "keras-jax"
TORCH_EAGER, TORCH_COMPILE = "torch-eager", "torch-compile"

MODELS = ("model1", "model2", "model3", "model4")

_HEADINGS = {
    "epoch": ("later epoch, s", "first epoch, s"),
    "step": ("step, ms", "first call, s"),
    "finetune": ("step, ms", "first call, s"),
    "memory": ("later epoch, ms", "first epoch, s"),
    "forward": ("batch, ms", "first call, s"),
    "augment": ("batch, ms", "first call, s"),
    "start": ("warm, s", "cold, s"),
    "run": ("whole run, s", "to the end of epoch 1, s"),
    "predict": ("warm, s", "cold, s"),
    "growth": ("later epoch, s", "first epoch, s"),
}
"""Table headings of `seconds` and `first`, by kind of workload."""
_WITHOUT_MEMORY = ("forward", "augment")


@dataclass(frozen=True)
class Target:
    """The lowest `quantity` among `rivals` should be at least `at_least` times ours."""

    workload: str
    rivals: tuple[str, ...]
    at_least: float
    quantity: str = "seconds"


_TENSORFLOW = (KERAS_TENSORFLOW,)
_BEST = (KERAS_TENSORFLOW, TORCH_COMPILE, TORCH_EAGER)
_WITH_KERAS = (
    *(f"{name}-{model}" for name in ("epoch", "step", "run") for model in MODELS),
    "step-model6",
    *(f"start-{model}" for model in MODELS[2:]),
    *(f"finetune-{part}" for part in FINE_TUNED),
    "predict",
)
TARGETS: tuple[Target, ...] = (
    *(Target(f"start-{model}", _TENSORFLOW, 1.2, "first") for model in MODELS[2:]),
    *(Target(f"start-{model}", _TENSORFLOW, 3.0) for model in MODELS[2:]),
    *(Target(f"epoch-{model}", _TENSORFLOW, 1.0, "first") for model in MODELS),
    *(Target(f"epoch-{model}", _TENSORFLOW, 1.2) for model in MODELS[:3]),
    *(Target(f"epoch-{model}", (KERAS_JAX,), 3.0) for model in MODELS[:3]),
    Target("epoch-model4", _TENSORFLOW, 3.0),
    Target("epoch-model4", (KERAS_JAX,), 12.0),
    *(Target(f"run-{model}", _TENSORFLOW, 1.0) for model in MODELS[:3]),
    Target("run-model4", _TENSORFLOW, 3.0),
    *(Target(f"step-{model}", _TENSORFLOW, 1.0) for model in MODELS[:3]),
    Target("step-model6", _BEST, 1.2),
    *(Target(f"finetune-{part}", _BEST, 1.2) for part in FINE_TUNED),
    Target("forward", (TORCH_COMPILE, KERAS_TENSORFLOW), 1.3),
    Target("augment", _TENSORFLOW, 3.0),
    Target("predict", _TENSORFLOW, 3.0),
    *(Target(workload, _TENSORFLOW, 1.0, "peak_mib") for workload in _WITH_KERAS),
)


@dataclass(frozen=True)
class Spread:
    """Median and range over rounds."""

    median: float
    lowest: float
    highest: float


def kind(workload: str) -> str:
    """`epoch` of `epoch-model4`."""
    return workload.partition("-")[0]


def by_round(
    turns: Sequence[Turn], workload: str, contender: str, quantity: str = "seconds"
) -> dict[int, float]:
    """A contender's `quantity` (of `seconds`, the median) in each round where it was measured."""
    found = {}
    for turn in turns:
        if (turn["work"], turn["contender"]) == (workload, contender) and not turn["error"]:
            value = turn[quantity]
            if quantity == "seconds":
                value = median(value)
            if value is not None:
                found[turn["round"]] = value
    return found


def ratios(
    turns: Sequence[Turn], workload: str, rivals: Sequence[str], quantity: str = "seconds"
) -> list[float]:
    """The best rival's quantity ÷ ours, for each round with values for us and all rivals."""
    ours = by_round(turns, workload, OURS, quantity)
    theirs = [by_round(turns, workload, rival, quantity) for rival in rivals]
    return [
        min(values[number] for values in theirs) / value
        for number, value in ours.items()
        if all(number in values for values in theirs)
    ]


def spread(values: Sequence[float]) -> Spread | None:
    """Median and range, or None if there are no values."""
    return Spread(median(values), min(values), max(values)) if values else None


def note(turn: Turn) -> str:
    """A remark on a turn for the reader, usually empty."""
    if turn["error"]:
        return f"failed: {turn['error']}"
    if abs(turn.get("loss", 0) - DEAD_LOSS) < 1e-4:
        return "the model died (all outputs zero), which may change its speed"
    return ""


def tables(turns: Sequence[Turn]) -> str:
    """Markdown: the targets, then a table per workload with a row per contender."""
    workloads = list(dict.fromkeys(turn["work"] for turn in turns))
    lines = ["# Benchmark", "", *_target_lines(turns, workloads)]
    for workload in workloads:
        lines += ["", f"## {workload}", "", *_workload_lines(turns, workload)]
    lines += [
        "",
        "Values are medians over rounds (lowest … highest); each round contributes the median of "
        "its timed calls or later epochs. Ratios compare measurements of the same round. Peak "
        "memory is that of the whole process on the host, in MiB. PyTorch needs torchvision to "
        "load photos, so it only runs `step`, `finetune`, `memory`, `forward` and `augment`. "
        "`forward` uses random weights. Keras's loader decodes every photo in every epoch; ours "
        "are decoded once, in the first epoch. Our checkpoints are written while training goes on; "
        "`memory` writes none. Later epochs of our model 4 reuse the features of the validation "
        "photos, which training does not change. In "
        "`start`, `run` and `predict` ours is the whole command, and its memory that of all its "
        "processes. `growth` trains on four fifths of its photos. The targets are for two CPU "
        "cores.",
    ]
    return "\n".join(lines) + "\n"


def _target_lines(turns: Sequence[Turn], workloads: Sequence[str]) -> list[str]:
    rows: list[str] = []
    for target in TARGETS:
        if target.workload in workloads:
            took_part = [name for name in target.rivals if by_round(turns, target.workload, name)]
            rivals = took_part or target.rivals
            found = spread(ratios(turns, target.workload, rivals, target.quantity))
            met = "not measured"
            if found is not None:
                met = "yes" if found.median >= target.at_least else "no"
            what = f"{target.workload}, {_quantity(target)}"
            against, goal = " or ".join(rivals), f"≥ {target.at_least:g}"
            rows.append(table_line([what, against, _ratio(found), goal, met]))
    if not rows:
        return []
    return [*_header(["workload", "against", "theirs ÷ ours", "target", "met"]), *rows]


def _quantity(target: Target) -> str:
    """`later epoch`, `cold`, `peak memory`: what is compared."""
    if target.quantity == "peak_mib":
        return "peak memory"
    later, first = _HEADINGS[kind(target.workload)]
    return (first if target.quantity == "first" else later).rpartition(",")[0]


def _workload_lines(turns: Sequence[Turn], workload: str) -> list[str]:
    later, first = _HEADINGS[kind(workload)]
    with_memory = kind(workload) not in _WITHOUT_MEMORY
    memory = ["peak MiB"] if with_memory else []
    lines = _header(["contender", later, first, *memory, "time ÷ ours"])
    of_workload = [turn for turn in turns if turn["work"] == workload]
    factor = 1000 if later.endswith("ms") else 1
    for name in sorted({turn["contender"] for turn in of_workload}):
        seconds = [factor * value for value in by_round(turns, workload, name).values()]
        cells = [name, _cell(seconds), _cell(by_round(turns, workload, name, "first").values())]
        if with_memory:
            cells.append(_cell(by_round(turns, workload, name, "peak_mib").values()))
        lines.append(table_line([*cells, _ratio(spread(ratios(turns, workload, [name])))]))
    devices = {turn["contender"]: turn["device"] for turn in of_workload if turn.get("device")}
    notes = [f"- {name}: {device}" for name, device in sorted(devices.items())]
    notes += [
        f"- {turn['contender']}, round {turn['round'] + 1}: {note(turn)}"
        for turn in of_workload
        if note(turn)
    ]
    return [*lines, *([""] if notes else []), *notes]


def _header(names: Sequence[str]) -> list[str]:
    return [table_line(names), "|---" * len(names) + "|"]


def _cell(values: Iterable[float]) -> str:
    found = spread(list(values))
    if found is None:
        return "–"
    numbers = [_number(value) for value in (found.median, found.lowest, found.highest)]
    return "{} ({} … {})".format(*numbers)


def _ratio(found: Spread | None) -> str:
    if found is None:
        return "–"
    return f"{found.median:.2f} ({found.lowest:.2f} … {found.highest:.2f})"


def _number(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"
