import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import DRAWINGS, TRAIN, command, write_drawings
from photo_files import write_readable, write_unreadable
from PIL import Image

from catdog_jax.cli import _COMMANDS, main, parse, parsed
from catdog_jax.commands.settings import Reproduce
from catdog_jax.data import sketches
from catdog_jax.errors import guarded, say
from catdog_jax.models import create
from catdog_jax.models.keras_weights import save_keras_weights
from catdog_jax.models.mobilenet_v2 import MobileNetV2
from catdog_jax.models.resnet import Model6
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.recipes import RECIPES

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "model3", *TRAIN, "--epochs", "1", "--out", str(folder)]
    assert main(arguments) == 0
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(sketches.draw(3, 40)[0]):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def test_evaluate_prints_what_training_found(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run_folder)]) == 0
    test = json.loads((run_folder / "metrics.json").read_text())["test"]
    printed = capsys.readouterr().out
    assert f"{100 * test['accuracy']:.1f} %" in printed
    assert "of 12 images" in printed


def test_a_finished_run_is_lengthened_and_its_predictions_are_written(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = tmp_path / "copy", tmp_path / "predictions.csv"
    shutil.copytree(run_folder, folder)
    longer = ["train", "--resume", str(folder), "--epochs", "2", "--predictions", str(table)]
    assert main(longer) == 0
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + 2
    header, *rows = table.read_text().splitlines()
    assert header == "photo,class,predicted,loss,cats,dogs"
    assert len(rows) == 12
    assert main(["train", "--resume", str(folder), "--finish"]) == 0
    assert "is finished; reading it" in capsys.readouterr().out


def test_all_photos_of_another_source_are_evaluated(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_drawings(tmp_path / "data", {"cat": 5, "dog": 5})
    table = tmp_path / "predictions.csv"
    arguments = ["evaluate", str(run_folder), "--data", str(data)]
    assert main([*arguments, "--split", "all", "--predictions", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "classes matched: cat = cats, dog = dogs" in printed
    assert "all accuracy: " in printed
    assert "of 10 images" in printed
    assert len(table.read_text().splitlines()) == 1 + 10


def test_predict_takes_files_and_folders(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["predict", "--run", str(run_folder), str(photos), str(photos / "1.png"), "--json"])
        == 0
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png", "1.png"]
    assert rows[1] == rows[3]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["class"] == max(row["probabilities"], key=row["probabilities"].get)


def test_predict_goes_on_after_a_bad_photo(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "1.png").write_text("not a picture")
    assert main(["predict", "--run", str(run_folder), str(photos), str(photos / "absent.jpg")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert ["error:" in line for line in lines] == [False, True, False, True]


def test_predict_goes_on_after_a_folder_without_photos(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["predict", "--run", str(run_folder), str(tmp_path / "empty"), str(photos)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "empty  error: " in lines[0]
    assert "holds no pictures" in lines[0]
    assert not any("error" in line for line in lines[1:])


@pytest.mark.parametrize("as_json", [True, False])
def test_predict_names_every_kind_of_bad_file(
    run_folder: Path,
    tmp_path: Path,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_readable(tmp_path / "photos")
    good = {path.name for path in (tmp_path / "photos").iterdir()}
    reasons = write_unreadable(tmp_path / "photos", monkeypatch)
    command = ["predict", "--run", str(run_folder), str(tmp_path / "photos")]
    assert main([*command, "--json"] if as_json else command) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(good) + len(reasons)
    "".join(lines).encode()  # a terminal can show the lines, whatever the names
    if as_json:
        rows = {Path(row["file"]).name: row for row in map(json.loads, lines)}
        assert {name for name, row in rows.items() if "class" in row} == good
        for name, reason in reasons.items():
            assert reason in rows[name]["error"]
            assert "\n" not in rows[name]["error"]
    else:
        assert sum("  error: " in line for line in lines) == len(reasons)


def test_predict_reports_impossible_paths(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ["~nobody.jpg", "x" * 5000, "\udcff.jpg"]
    assert main(["predict", "--run", str(run_folder), str(photos / "1.png"), *odd]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert ["  error: " in line for line in lines] == [False, True, True, True]


def test_data_prints_counts_and_draws_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "sketches", *DRAWINGS, "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "48 images (24 cats, 24 dogs; always guessing the commonest: 50.0 %)" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"labels.png", "photos.png"}


@pytest.mark.slow
def test_the_demo_says_that_these_are_drawings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: three models are compiled. None learns anything in an epoch."""
    monkeypatch.setattr("catdog_jax.runs.demo._TRIES", 1)
    arguments = ["demo", "--epochs", "1", *DRAWINGS, "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "drawings made by a program, not photos" in printed
    assert "catdog-jax reproduce" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model1-seed0", "model2-seed0", "model3-seed0", "summary.md", "curves.png"} <= names
    assert "model4-seed0" not in names


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "model9", *TRAIN], "unknown model 'model9'; choose one of: model1"),
        (["train", "model1", "--data", "nowhere"], "nowhere' is neither a known data set"),
        (["train", "model4", *TRAIN, "--weights", "no.h5"], "no weights file at no.h5"),
        (
            ["train", "model1", *TRAIN, "--epochs", "0"],
            "epochs must be a whole number, 1 to",
        ),
        (
            ["train", "model1", *TRAIN, "--batch-size", "-1"],
            "batch_size must be a whole number, 1 to",
        ),
        (
            ["train", "model1", *TRAIN, "--learning-rate", "nan"],
            "learning_rate must be a number, above 0",
        ),
        (["train", "model1", *TRAIN, "--augment", "rotate=1"], "rotate"),
        (["train", "model1", *TRAIN, "--augment", "rotation=x"], "rotation"),
        (["train", "absent.py:Net", *TRAIN], "absent.py cannot be read"),
        (["train", "model1", *TRAIN, "--seed", "-1"], "seed must be a whole number, 0 to"),
        (["train"], "which model? model1, model2, model3, model4, "),
        (["train", "--data", "absent"], "absent"),
        (["train", "model1", "--resume", "run"], "--resume continues a run with its own settings"),
        (["reproduce", "--seeds", "0"], "--seeds must be from 1 to 1000, not 0"),
        (["reproduce", "--models", "model9"], "unknown model 'model9'"),
        (["evaluate", "nowhere"], "nowhere is not a run: it has no config.json"),
        (["predict", "--run", "nowhere", "x.jpg"], "nowhere is not a run: it has no config.json"),
        (["predict", "--json"], "no photos to classify; name photos, folders"),
        (["train", "--resume", "\udcff"], r"\udcff is not a run: it has no config.json"),
        (
            ["data", "sketches", *DRAWINGS, "--out", "/dev/null"],
            "cannot be created",
        ),
        (["data", "nowhere"], "nowhere' is neither a known data set"),
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
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_memory_that_runs_out_ends_in_one_line_and_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_much() -> None:
        jax.jit(lambda: jnp.ones((1 << 60,), jnp.int8))().block_until_ready()

    assert guarded(too_much) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: not enough memory (RESOURCE_EXHAUSTED: ")
    assert "try a smaller --batch-size" in error
    assert error.count("\n") == 1


def test_a_bug_is_not_hidden() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        guarded(fail)


DATA = ["data", "sketches", *DRAWINGS]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_ends_in_one_line_and_code_1(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(*DATA, "--out", str(tmp_path)),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"


def test_the_installed_command_has_help_and_code_2_for_bad_flags() -> None:
    command = shutil.which("catdog-jax", path=str(Path(sys.executable).parent))
    assert command is not None, "the package is not installed; run: pip install -e ."
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in _COMMANDS)
    assert subprocess.run([command, "train", "--no-such-flag"], capture_output=True).returncode == 2


@pytest.mark.parametrize("script", sorted(EXPERIMENTS.glob("*.py")), ids=lambda path: path.stem)
def test_an_experiment_script_has_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert not end.value.code
    said = capsys.readouterr().out
    assert any(word in said for word in ("--data", "--out", "--models", "{pack,run,table}"))


DRAWN = {
    "model1_cnn": {"labels.png", "photos.png", "history.png"},
    "model2_augmentation": {"flips.png", "rotations.png", "history.png"},
    "model3_rescaling": {"history.png"},
    "model4_transfer": {"history.png"},
    "model5_finetune": {"history.png"},
    "model6_scratch": {"history.png"},
    "custom_model": {"history.png", "metrics.json"},
}


@pytest.mark.slow
@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize("name", DRAWN)
def test_an_experiment_script_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Slow: each script compiles a model of its own."""
    arguments = ["--data", "sketches", "--image-size", "32", "--epochs", "1"]
    if name == "model5_finetune":
        arguments += ["--head-epochs", "1", "--epochs", "2"]
    if name in ("model4_transfer", "model5_finetune"):
        weights = tmp_path / "random.weights.h5"
        save_keras_weights(MobileNetV2(rngs=nnx.Rngs(0)), weights)
        arguments += ["--weights", str(weights)]
    if name == "model6_scratch":
        small = {"model6": partial(Model6, widths=(8,), blocks=(1,))}
        monkeypatch.setattr(create, "MODELS", small)
    script = str(EXPERIMENTS / f"{name}.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 0
    assert "epoch  1" in capsys.readouterr().out
    (folder,) = (tmp_path / "runs").iterdir()
    assert DRAWN[name] <= {path.name for path in folder.iterdir()}
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture).std() > 10


def test_an_experiment_script_reports_wrong_input_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(EXPERIMENTS / "model1_cnn.py")
    monkeypatch.setattr(sys, "argv", [script, "--data", "nowhere"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 2
    assert re.fullmatch("error: 'nowhere' is neither .*\n", capsys.readouterr().err)


def test_letters_that_a_terminal_does_not_know_are_escaped() -> None:
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, "latin-1")
    with contextlib.redirect_stdout(terminal):
        say("Kätzchen: 猫")
    assert written.getvalue().decode("latin-1") == "Kätzchen: \\u732b\n"


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert not end.value.code
    return " ".join(re.sub("[│╭╮╰╯─]", "", capsys.readouterr().out).split())


def test_every_command_is_listed_and_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in _COMMANDS:
        assert f"  {name} " in listed
        example = re.search(
            rf"Example: (catdog-jax {name}\b.*?)(?: The | Settings |$)", help_of(capsys, name)
        )
        assert example
        words = shlex.split(re.split(" options | positional ", example[1])[0])
        assert callable(parsed(words[1:]))


def test_help_shows_each_setting_with_its_range_and_its_recipes_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = help_of(capsys, "train", "model4")
    for field in fields(Experiment):
        if field.name != "model":
            assert f"--{field.name.replace('_', '-')} " in shown
    assert re.search(r"--learning-rate FLOAT [^()]*\(default: 0.0001\)", shown)
    assert re.search(r"--threshold FLOAT [^()]*\(default: 0.5\)", shown)
    assert "--schedule {constant,cosine}" in shown
    assert "Photos in a step. 1 to 65536. (default: 32)" in shown
    assert "with the others. 0 or more. (default: 0.0)" in shown
    assert "in pixels. 32 to 4096. (default: 160)" in help_of(capsys, "data")
    assert re.search(r"--learning-rate FLOAT [^()]*\(default: 0.001\)", help_of(capsys, "train"))
    assert "--seed " not in help_of(capsys, "reproduce")


def test_settings_are_changed_only_where_a_recipe_uses_them() -> None:
    arguments = [
        "--epochs",
        "3",
        "--weights",
        "my.h5",
        "--threshold=0",
        "--stop-when-dead",
        "False",
    ]
    options = parse(Reproduce, arguments, "catdog-jax reproduce")
    assert options.changes.keys() == {"epochs", "weights", "threshold", "stop_when_dead"}
    model3, model4 = (options.adapt(RECIPES[name]) for name in ("model3", "model4"))
    assert model3 == replace(RECIPES["model3"], epochs=3, threshold=0, stop_when_dead=False)
    assert (model4.weights, model4.epochs, model4.threshold) == ("my.h5", 3, 0)
    assert model4.learning_rate == RECIPES["model4"].learning_rate


def test_a_setting_may_be_given_the_recipes_default_of_another_model() -> None:
    options = parse(Reproduce, ["--learning-rate", "1e-3"], "catdog-jax reproduce")
    assert options.adapt(RECIPES["model4"]).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("trian model3", "no command trian; did you mean train? (see"),
        ("xyz", "no command xyz; choose one of: demo,"),
        ("", "no command given; choose one of: demo,"),
        ("train model3 --lr 1e-3", "--lr; did you mean --learning-rate?"),
        ("train model3 --batchsize 3", "--batchsize; did you mean --batch-size?"),
        ("predict a.jpg --photos b.jpg", "no option --photos; see"),
        ("train --model model3", "no option --model; did you mean --model-options?"),
        ("train model3 --xyzzy", "no option --xyzzy; see catdog-jax train --help"),
        ("train model3 model4", "unexpected argument model4; see"),
        ("train model3 --epochs many", "--epochs takes INT, not many; see"),
        ("train --epochs 5 --epochs=many model3", "--epochs takes INT, not many; see"),
        ("train --learning_rate many model3", "--learning-rate takes FLOAT, not many; see"),
        (
            "train model3 --sizes 10 10 --strict",
            "--sizes takes None or INT INT INT, not 10 10; see",
        ),
        (
            "train model3 --schedule cos",
            "'--schedule'. Expected one of ('constant', 'cosine'); see",
        ),
        ("train model3 --epochs", "Missing value for argument '--epochs'"),
        ("predict", "no photos to classify"),
        ("evaluate run --split exam", "Expected one of ('train', 'validation', 'test', 'all')"),
        ("evaluate run --checkpoint first", "Expected one of ('best', 'last')"),
        ("train model3 --finish", "--finish ends a run early; it needs --resume RUN"),
        ("train --resume run --seed 3", "only --epochs, --data, --data-dir,"),
        ("train --resume run --out there", "only --epochs, --data, --data-dir,"),
        ("train --resume run --strict", "only --epochs, --data, --data-dir,"),
    ],
)
def test_wrong_arguments_end_in_one_line_that_helps(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{version('catdog_jax')}\n"


def shell(redirected: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line by a shell, which closes and redirects streams."""
    words = ["sh", "-c", f'exec "$@" {redirected}', "sh", *command(*arguments)]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    "closed",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", "2>&-", "<&-")),
        ">&- 2>&- <&-",
    ],
)
def test_closed_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    """All at once; one by one is slow: two processes each."""
    done = shell(closed, *DATA, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            picture.load()  # nothing was printed into it
    assert len(list(tmp_path.iterdir())) == 2
    failed = shell(closed, "data", "nowhere")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == (0 if "2>&-" in closed else 1)


def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path: Path) -> None:
    done = shell("| true", *DATA, "--out", str(tmp_path))
    assert done.stderr == ""


def test_names_beyond_ascii_work_in_the_posix_locale_and_unprintable_paths_are_escaped(
    tmp_path: Path,
) -> None:
    out = tmp_path / "ü\udcff\n"
    done = shell("", *DATA, "--out", str(out), LC_ALL="POSIX", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert (out / "labels.png").exists()
    assert done.stdout.endswith(rf"labels.png and photos.png are in {tmp_path}/ü\udcff\n" + "\n")


def test_a_tilde_in_out_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([*DATA, "--out=~/r"]) == 0
    assert (tmp_path / "r" / "labels.png").exists()


@pytest.mark.parametrize("platform", ["cuda", "nothing"])
def test_a_missing_platform_is_reported_first(platform: str, tmp_path: Path) -> None:
    if platform == "cuda" and jax.default_backend() != "cpu":
        pytest.skip("there may be such a device here")
    done = shell(
        "", "train", "model3", *TRAIN, "--out", str(tmp_path / "run"), JAX_PLATFORMS=platform
    )
    assert done.returncode == 2
    assert f"error: JAX has no such device here: JAX_PLATFORMS={platform} (" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_is_chosen_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_drawings(tmp_path / "photos", {"cats": 20, "dogs": 20})
    weights = tmp_path / "weights.h5"
    h5py.File(weights, "w").close()
    asked: list[Any] = []

    def stand_in(experiment: Experiment, *_: Any, **__: Any) -> Any:
        asked.append(experiment)
        return SimpleNamespace(folder="run")

    monkeypatch.setattr("catdog_jax.runs.runner.run", stand_in)
    words = ["train", "--data", str(folder), "--weights"]
    assert main([*words, str(weights), "--epochs", "10", "--image-size", "96"]) == 0
    assert main([*words, "none", "--image-size", "32"]) == 0
    tuned, scratch = asked
    assert (tuned.model, tuned.epochs, tuned.head_epochs) == ("model5", 10, 5)
    assert (scratch.model, scratch.image_size) == ("model6", 32)
    assert scratch.epochs == 3 * RECIPES["model6"].epochs
    assert f"no model named: model6 for at most {scratch.epochs} epochs" in capsys.readouterr().out
    monkeypatch.setattr(
        "catdog_jax.runs.series.run_series", lambda experiments, *_, **__: asked.extend(experiments)
    )
    assert main([*words, "none", "--image-size", "32", "--seeds", "2"]) == 0
    assert asked[2:] == [replace(scratch, seed=0), replace(scratch, seed=1)]
