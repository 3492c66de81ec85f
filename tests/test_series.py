"""Series of runs: sweeps, seeds, the post's recipes; and runs compared."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import networks
import pytest
from helpers import LINEAR, SETTINGS, SMALL, TRAIN, command, silent, write_drawings
from PIL import Image

from catdog_jax.cli import main, parse
from catdog_jax.commands.settings import Reproduce, Sweep
from catdog_jax.data import sources
from catdog_jax.data.load import load_data
from catdog_jax.errors import InputError, RunError
from catdog_jax.runs import build, series
from catdog_jax.runs.compare import compare, entries_of
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.runs.reproduce import reproduce
from catdog_jax.runs.results import Run, load_run
from catdog_jax.runs.runner import run
from catdog_jax.runs.series import over_seeds, run_series, summarize

ONE = replace(LINEAR, epochs=1)
NET = [LINEAR.model, *TRAIN]


def small(experiment: Experiment) -> Experiment:
    return replace(experiment, **{**SETTINGS, "epochs": 1})


def rows(path: Path) -> list[dict[str, str]]:
    """The first table of a Markdown file."""
    table = path.read_text("utf-8").partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two learning rates, two seeds each."""
    out = tmp_path_factory.mktemp("runs") / "sweep"
    two = [replace(LINEAR, learning_rate=rate) for rate in (1e-3, 0.1)]
    run_series(over_seeds(two, [0, 1]), out, log=silent)
    return out


def test_a_sweep_is_a_folder_per_run_and_a_row_per_setting(swept: Path) -> None:
    folders = {path.name for path in swept.iterdir() if path.is_dir()}
    assert folders == {
        f"networks-Linear-learning-rate{r}-seed{s}" for r in (0.001, 0.1) for s in (0, 1)
    }
    found = rows(swept / "summary.md")
    assert [row["learning rate"] for row in found] == ["0.001", "0.1"]
    assert [row["runs"] for row in found] == ["2", "2"]
    assert not {"batch size", "seed", "optimizer", "notes"} & found[0].keys()
    for row in found:
        best = []
        for seed in (0, 1):
            one = load_run(
                swept / f"networks-Linear-learning-rate{row['learning rate']}-seed{seed}"
            )
            best.append(100 * max(epoch["val_accuracy"] for epoch in one.history))
        assert row["best validation accuracy"].startswith(f"{mean(best):.1f} ± {stdev(best):.1f} %")
    (first, *_), records = found, json.loads((swept / "summary.json").read_text())
    assert len(records) == 4
    assert records[0]["settings"] == {"model": first["model"], "learning rate": "0.001"}
    assert records[0]["best"]["val_accuracy"] > 0
    with Image.open(swept / "curves.png") as picture:
        assert picture.size[0] > 600


def test_a_sweep_on_the_command_line_trains_what_is_new(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(swept, out)
    arguments = ["sweep", *NET, "--epochs", "3", "--learning-rate", "0.1", "1e-3", "--seeds", "1"]
    # Other folder names than before, since two settings differ now: a run is known by its content.
    assert main([*arguments, "--clip", "None", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "4 runs in" in printed
    assert ", 2 of them finished" in printed
    assert printed.count("holds this run already") == 2
    assert [
        (row["learning rate"], row["clip"], row["runs"]) for row in rows(out / "summary.md")
    ] == [
        ("0.001", "none", "2"),
        ("0.001", "1", "1"),
        ("0.1", "none", "2"),
        ("0.1", "1", "1"),
    ]
    assert len(list(out.glob("*/metrics.json"))) == 6


def test_a_sweep_is_the_product_of_its_values() -> None:
    words = (
        "model3 model4 --learning-rate 1e-3 1e-4 --ema None 0.9 --augment flip mirror --epochs 2"
    )
    found = parse(Sweep, words.split(), "sweep").experiments()
    assert [(e.model, e.learning_rate, e.ema) for e in found] == [
        (model, rate, ema)
        for model in ("model3", "model4")
        for rate in (1e-3, 1e-4)
        for ema in (None, 0.9)
    ]
    assert {(e.augment, e.epochs) for e in found} == {(("flip", "mirror"), 2)}
    assert found[-1].threshold == RECIPES["model4"].threshold


def test_the_photos_of_a_series_are_loaded_once_for_each_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def counted(source: str, image_size: int, *args: Any, **options: Any) -> Any:
        sizes.append(image_size)
        return load_data(source, image_size, *args, **options)

    monkeypatch.setattr(build, "load_data", counted)
    variants = [ONE, replace(ONE, image_size=40), replace(ONE, batch_size=8)]
    lines: list[str] = []
    found = series._load(variants, False, lines.append)
    assert sizes == [32, 40]
    assert [found[one].train.images.shape[1] for one in variants] == [32, 40, 32]
    assert sum("train: " in line for line in lines) == 2


def test_what_is_wrong_with_a_later_run_is_found_before_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = {
        "optimizer": ("adma", "unknown optimizer 'adma'"),
        "weights": ("no.h5", r"no weights file at .*no\.h5"),
        "trainable": ("haed", "selects no parameter"),
        "data": ("nowhere", "neither a known data set"),
    }
    for name, (value, says) in wrong.items():
        with pytest.raises(InputError, match=says):
            run_series([ONE, replace(ONE, **{name: value})], out, log=silent)
    assert not out.exists()
    occupied = out / "networks-Linear-learning-rate0.1-seed0"
    run(replace(ONE, learning_rate=0.2), occupied, log=silent)
    with pytest.raises(InputError, match="is not this run: its learning_rate is 0"):
        run_series([ONE, replace(ONE, learning_rate=0.1)], out, log=silent)
    assert list(out.iterdir()) == [occupied]
    with pytest.raises(InputError, match="is a run; choose another folder for a series"):
        run_series([ONE], occupied, log=silent)


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    sources = [write_drawings(tmp_path / one / "photos", {"a": 9, "b": 9}) for one in "xy"]
    two = [replace(ONE, data=str(source), sizes=None) for source in sources]
    with pytest.raises(
        InputError, match="two runs would be named networks-Linear-data-photos-seed0"
    ):
        run_series(two, tmp_path / "out", log=silent)
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    lines: list[str] = []
    rates = [replace(ONE, learning_rate=rate) for rate in (1e38, 1e-3)]
    with pytest.raises(RunError, match=r"1 of 2 runs failed: networks-Linear-learning-rate1e\+38"):
        run_series(rates, tmp_path, log=lines.append)
    assert sum(line.startswith("failed: the ") for line in lines) == 1
    assert (
        "Failed: networks-Linear-learning-rate1e+38-seed0: the"
        in (tmp_path / "summary.md").read_text()
    )
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 1


def test_an_experiment_is_trained_with_several_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *NET, "--epochs", "1", "--seeds", "2", "--seed", "3"]) == 0
    (out,) = Path("runs").iterdir()
    assert out.name.startswith("networks-Linear-data-sketches-")
    assert "seed" not in out.name
    assert {path.name for path in out.glob("*seed*")} == {
        "networks-Linear-seed3",
        "networks-Linear-seed4",
    }
    assert "| networks.py:Linear | 2 | " in capsys.readouterr().out
    for more in (["--predictions", "x.csv"], ["--resume", str(out)], ["--finish"]):
        assert main(["train", "--seeds", "2", *more]) == 2
        assert "--seeds trains several runs; --resume, --fin" in capsys.readouterr().err


# The post's recipes as a series.


def test_a_series_plots_and_tabulates_its_runs_and_continues_where_it_stopped(
    tmp_path: Path,
) -> None:
    reproduce(["model3"], [0], tmp_path, adapt=small, log=silent)
    lines: list[str] = []
    models = ["model3", "model2"]
    runs = reproduce(models, [0], tmp_path, adapt=small, log=lines.append)
    assert [run.experiment.model for run in runs] == models
    assert sum("holds this run already" in line for line in lines) == 1
    # Their recipes differ in more than the model, which stands for its recipe.
    header = [
        "model",
        "runs",
        "best validation accuracy",
        "test accuracy",
        "epochs done",
        "seconds",
    ]
    assert [list(row) for row in rows(tmp_path / "summary.md")] == [header, header]
    assert "published" not in (tmp_path / "summary.md").read_text()  # of other data
    figures = {"labels.png", "photos.png", "flips.png", "rotations.png", "curves.png"}
    assert figures <= {path.name for path in tmp_path.iterdir()}
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 2


def test_published_numbers_are_shown_only_beside_runs_on_the_posts_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_SKETCHES_SIZES", (48, 20, 10))
    alike = replace(SMALL, sizes=None, epochs=1)
    found = run(alike, tmp_path / "model3-seed0", log=silent)

    def shown() -> bool:
        summarize(tmp_path)
        return "78.1 % (epoch 19)" in (tmp_path / "summary.md").read_text()

    assert not shown()
    monkeypatch.setattr(series, "POSTS_PHOTOS", found.inputs["photos"])
    assert shown()
    of_other_sizes = replace(found, experiment=replace(alike, sizes=(48, 20, 10)))
    assert not series._is_of_the_post(of_other_sizes)
    run(replace(alike, stop_when_dead=False), tmp_path / "another-setting", log=silent)
    assert not shown()


@pytest.mark.slow
def test_two_series_at_once_share_a_folder(tmp_path: Path) -> None:
    """Each finishes its own runs; the figures and the summary, which both write, are whole. Slow:
    two processes, each of which compiles a model."""
    words = ("reproduce", *TRAIN, "--epochs", "1", "--out", str(tmp_path), "--models")
    processes = [
        subprocess.Popen(command(*words, model), stdout=subprocess.DEVNULL)
        for model in ("model2", "model3")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert not list(tmp_path.glob(".*unfinished"))
    summarize(tmp_path)
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 2


def test_a_series_finds_wrong_weights_before_it_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adapt(experiment: Experiment) -> Experiment:
        weights = "no.h5" if experiment.model == "model4" else "none"
        return replace(small(experiment), weights=weights)

    monkeypatch.setattr(build, "load_data", None)
    with pytest.raises(InputError, match=r"no weights file at .*no\.h5"):
        reproduce(["model3", "model4"], [0], tmp_path / "out", adapt=adapt)
    assert not (tmp_path / "out").exists()


def test_reproduce_trains_the_posts_models_unless_told_otherwise() -> None:
    post = ("model1", "model2", "model3", "model4")
    assert parse(Reproduce, [], "reproduce").models == post
    assert parse(Reproduce, ["--models", "model5"], "reproduce").models == ("model5",)


# Runs compared.


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of another augmentation than those of the sweep."""
    folder = tmp_path_factory.mktemp("runs") / "flipped"
    return run(replace(ONE, augment=("flip",), epochs=2), folder, log=silent)


def test_the_columns_of_a_comparison_are_the_settings_that_differ(
    swept: Path, flipped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(flipped.folder, copy)
    again = swept / "networks-Linear-learning-rate0.1-seed1"  # is in the sweep already
    arguments = [str(folder) for folder in (flipped.folder, swept, again, copy)]
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 0
    found = rows(tmp_path / "out/compare.md")
    names = ("epochs", "learning rate", "augment", "runs", "epochs done")
    assert [tuple(row[name] for name in names) for row in found] == [
        ("2", "0.001", "flip", "1", "2"),
        ("3", "0.001", "none", "2", "3"),
        ("3", "0.1", "none", "2", "3"),
    ]
    assert not {"batch size", "optimizer", "notes", "seed"} & found[0].keys()
    with Image.open(tmp_path / "out/compare.png") as picture:
        assert picture.size[0] > 600
    assert "| networks.py:Linear | 2 | 0.001 | flip | 1 |" in capsys.readouterr().out


def test_unfinished_and_older_runs_are_compared(swept: Path, tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch  1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(LINEAR, learning_rate=0.1, seed=7), tmp_path / "stopped", log=stop)
    older = tmp_path / "older"
    shutil.copytree(swept / "networks-Linear-learning-rate0.001-seed0", older)
    config = json.loads((older / "config.json").read_text())
    del config["experiment"]["mirror_test"], config["experiment"]["head_epochs"]
    (older / "config.json").write_text(json.dumps(config))
    compare([tmp_path / "stopped", older, swept], tmp_path, log=silent)
    fast, slow = rows(tmp_path / "compare.md")
    assert (fast["learning rate"], fast["runs"], fast["epochs done"]) == ("0.1", "3", "1 … 3")
    assert fast["notes"] == "seed 7 unfinished (1 of 3 epochs)"
    assert (slow["learning rate"], slow["runs"], slow["notes"]) == ("0.001", "2", "")


def test_runs_of_two_versions_of_a_file_are_told_apart(tmp_path: Path) -> None:
    code = Path(networks.__file__).read_text()
    runs = []
    for name, text in (("old", code), ("new", code.replace("dropout: float = 0.2", "dropout=0.5"))):
        file = tmp_path / name / "net.py"
        file.parent.mkdir()
        file.write_text(text)
        one = replace(ONE, model=f"{file}:Linear")
        runs += [run(one, tmp_path / f"{name}-run", log=silent)]
    old, new = (entry.label for entry in entries_of(runs))
    assert old["model"] == new["model"] == "net.py:Linear"
    assert old["net.py (SHA-256)"] == runs[0].inputs["net.py"][:8] != new["net.py (SHA-256)"]


def test_photos_that_have_moved_are_the_same(tmp_path: Path) -> None:
    source = write_drawings(tmp_path / "photos", {"a": 9, "b": 9})
    runs = [run(replace(ONE, data=str(source), sizes=None), tmp_path / "before", log=silent)]
    source = source.rename(tmp_path / "moved")
    one = replace(ONE, data=str(source), sizes=None, seed=1)
    runs += [run(one, tmp_path / "after", log=silent)]
    assert [entry.label for entry in entries_of(runs)] == [{"model": "networks.py:Linear"}] * 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep"], "which models? model1"),
        (["sweep", "model9", *TRAIN], "unknown model 'model9'"),
        (["sweep", *NET, "--learning-rate"], "--learning-rate has no value"),
        (
            ["sweep", *NET, "--learning-rate", "1e-3", "many"],
            "takes [FLOAT [FLOAT ...]], not 1e-3 many",
        ),
        (
            ["sweep", *NET, "--learning-rate", "1e-3", "-1"],
            "learning_rate must be a number, above 0",
        ),
        (["sweep", *NET, "--optimizer", "adam", "adma"], "unknown optimizer 'adma'"),
        (
            ["sweep", *NET, "--schedule", "constant", "cos"],
            "Expected one of ('constant', 'cosine')",
        ),
        (["sweep", *NET, "--seeds", "0"], "--seeds must be from 1 to 1000, not 0"),
        (["train", *NET, "--seeds", "1001"], "--seeds must be from 1 to 1000, not 1001"),
        (["compare"], "no runs to compare; name some folders of runs"),
        (
            ["compare", "nowhere"],
            "nowhere holds no run: no config.json in it or in one of its folde",
        ),
    ],
)
def test_wrong_input_ends_in_one_line_and_code_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert re.fullmatch(f"error: .*{re.escape(says)}.*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
