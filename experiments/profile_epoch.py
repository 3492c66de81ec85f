"""Where an epoch goes on a device: how long it is busy, what it runs, and what takes longest.

    python experiments/profile_epoch.py --models model3 model5 --dtype bfloat16

Trains on random pixels, with the recipes' augmentation in models 1 to 4 and none in the others. The
third epoch is traced, which makes it a little slower. On a GPU, kernels and copies are counted; on
a CPU, whose cores work at the same time, XLA's operations, those in loops twice.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax.profiler import ProfileData, ProfileOptions

from catdog_jax.cli import script
from catdog_jax.reports.tables import table_line
from catdog_jax.runs.build import build_model, device, training_of
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.recipes import POST, RECIPES
from catdog_jax.training.loop import fit
from catdog_jax.training.mesh import set_up_jax
from catdog_jax.training.state import Dtype


class Event(NamedTuple):
    """A kernel, a copy or an operation that a device ran. Times are in ns."""

    name: str
    program: str
    start: float
    end: float


def read_events(trace: Path) -> Iterator[Event]:
    """What the devices ran, from a folder that `jax.profiler.trace` has written."""
    (file,) = trace.rglob("*.xplane.pb")
    planes = list(ProfileData.from_file(str(file)).planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU:")]
    for plane in gpus or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            if gpus and not line.name.startswith("Stream"):  # the same events in other groups
                continue
            for event in line.events:
                stats = dict(event.stats)
                if gpus or "hlo_op" in stats:
                    program = str(stats.get("hlo_module", "unknown"))
                    yield Event(event.name, program, event.start_ns, event.end_ns)


def busy(events: Iterable[Event]) -> float:
    """For how long (ms) at least one event ran."""
    total, until = 0.0, 0.0
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(event.start, until))
        until = max(until, event.end)
    return total / 1e6


def table(events: Iterable[Event], by: Literal["name", "program"], steps: int) -> list[str]:
    """The names or programs that take longest, as Markdown: number, number a step, time, share."""
    groups: dict[str, list[float]] = {}
    for event in events:
        groups.setdefault(getattr(event, by), []).append((event.end - event.start) / 1e6)
    total = sum(map(sum, groups.values()))
    lines = [table_line([by, "launched", "÷ steps", "ms", "share"]), "|---" * 5 + "|"]
    for group, times in sorted(groups.items(), key=lambda item: -sum(item[1]))[:8]:
        count, took = len(times), sum(times)
        numbers = f"{count}", f"{count / steps:.1f}", f"{took:.1f}", f"{took / total:.0%}"
        lines.append(table_line([group[:70], *numbers]))
    return lines


def profile(experiment: Experiment, photos: tuple[int, int]) -> list[str]:
    """Train two epochs, trace the third, and describe it."""
    rng, size = np.random.default_rng(0), experiment.image_size
    shapes = [(count, size, size, 3) for count in photos]
    train, validation = (
        (rng.integers(0, 256, s, np.uint8), rng.integers(0, 2, s[0])) for s in shapes
    )
    model, steps = build_model(experiment, 2), -(-photos[0] // experiment.batch_size)
    records = fit(model, train, validation, **training_of(experiment, model, 2, steps))
    list(islice(records, 2))
    options = ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as trace:
        with jax.profiler.trace(trace, profiler_options=options):
            begun = time.perf_counter()
            record = next(records)
            wall = 1000 * (time.perf_counter() - begun)
        events = list(read_events(Path(trace)))
    where = f"{experiment.dtype}, photos {'on the device' if record.on_device else 'streamed'}"
    took = f"{wall:.1f} ms, device busy {busy(events):.1f} ms ({busy(events) / wall:.0%})"
    heading = f"\n## {experiment.model}, {device(record.devices)}, {where}\n"
    lines = [heading, f"An epoch of {steps} steps, with validation: {took}\n"]
    return [*lines, *table(events, "program", steps), "", *table(events, "name", steps)]


def main(
    models: tuple[str, ...] = (*POST, "model5", "model6"),
    photos: tuple[int, int] = (2000, 1000),
    image_size: int = 160,
    batch_size: int = 32,
    dtype: Dtype = "float32",
) -> None:
    """Print what a device runs in an epoch of each model, of photos to train and validate with."""
    set_up_jax()
    sizes = {"image_size": image_size, "batch_size": batch_size, "epochs": 3}
    for model in models:
        recipe = RECIPES[model] if model in POST else Experiment(model)
        experiment = replace(recipe, weights="none", dtype=dtype, **sizes)
        print("\n".join(profile(experiment, photos)), flush=True)


if __name__ == "__main__":
    script(main)
