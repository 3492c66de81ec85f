"""Exported files predict what the run does, without this package, and name their classes."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import keras_reference as reference
import networks
import numpy as np
import pytest
from helpers import SETTINGS, SMALL, silent, write_drawings
from jax import export
from keras_reference import infer, largest_error
from PIL import Image

import catdog_jax as cd
from catdog_jax.cli import main
from catdog_jax.data import own_process, photo
from catdog_jax.exports import keras_file, stablehlo, tflite
from catdog_jax.exports.keras_network import network_of
from catdog_jax.models import create
from catdog_jax.models.layers import weights_of
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.results import Run
from catdog_jax.runs.runner import run

pytestmark = [
    reference.ignore_keras_warnings,
    pytest.mark.filterwarnings("ignore:tf.lite.Interpreter is deprecated"),
]
SIZE = 32
DOCS = Path(__file__).parent.parent / "docs/export.md"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Model 3 with the post's 64 outputs; it predicts by the mean of a photo and its mirror."""
    folder = tmp_path_factory.mktemp("trained")
    photos = write_drawings(folder / "photos", {"cats": 30, "dogs": 30})
    changes = {"data": str(photos), "sizes": (36, 12, 12), "epochs": 1, "augment": ()}
    experiment = replace(SMALL, **changes, mirror_test=True)
    return run(experiment, folder / "run", log=silent)


@pytest.fixture
def copy(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the run on another machine, where its photos are not."""
    photos, away = Path(trained.experiment.data), trained.folder / "away"
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    photos.rename(away)
    yield Path(shutil.copytree(trained.folder, tmp_path / "copy", ignore=lambda *_: {"away"}))
    away.rename(photos)


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras files are written in this process, which has imported TensorFlow already."""

    def call(module: str, function: str, arguments: dict[str, Any], *, reads: str) -> Any:
        assert (module, bool(reads)) == (keras_file.__name__, True)
        return getattr(keras_file, function)(**arguments)

    monkeypatch.setattr(own_process, "call", call)


def photos(*shape: int) -> np.ndarray:
    """Images of `shape` `(batch, height, width)`, uint8."""
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def as_documented(file: Path, run: Run | Path) -> None:
    """Check that the code of docs/export.md classifies a photo as the run does.

    In a process that cannot see this package. The photo is not of the run's size.
    """
    folder = file.parent
    Image.fromarray(photos(1, 50, 70)[0]).save(folder / "photo.png")
    (folder / "photo.png").rename(folder / "photo.jpg")  # without loss, but named as in the code
    blocks = re.findall(r"^```py\n(.*?)^```", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if f'"{file.name}"' in block)
    hidden = f"import sys\nsys.modules['catdog_jax'] = None\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", hidden], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines()[-2:])
    (expected,) = cd.predict(run, folder / "photo.jpg").probabilities
    assert list(said) == ["cats", "dogs"]
    np.testing.assert_allclose([float(said["cats"]), float(said["dogs"])], expected, atol=1e-4)


# The layers.


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model1", {"blog_logits": True}),
        ("model2", {}),
        ("model3", {"num_classes": 3}),
        pytest.param("model4", {"alpha": 0.35}, marks=pytest.mark.slow),
        pytest.param("model5", {"alpha": 0.35}, marks=pytest.mark.slow),
        ("model6", {"blocks": (1, 2, 1, 1), "widths": (8, 8, 12, 16)}),
    ],
)
def test_keras_layers_give_our_logits(name: str, options: dict[str, Any]) -> None:
    """With random batch statistics, scales and biases: zeros and ones would hide mistakes."""
    model = reference.blank(partial(create.create_model, name), image_size=SIZE, **options)
    rng = np.random.default_rng(0)
    for variable in weights_of(model).values():
        *inputs, _ = shape = variable.shape
        spread = (2 / np.prod(inputs)) ** 0.5
        values = rng.normal(0, spread, shape) if inputs else rng.uniform(0.5, 1.5, shape)
        variable.set_value(jnp.asarray(values, jnp.float32))
    images = photos(3, SIZE, SIZE).astype("float32")
    network = network_of(model, SIZE)
    assert largest_error(network(images, training=False), infer(model, images)) <= 1e-4


# The files.


@pytest.mark.usefixtures("_here")
def test_a_keras_file_predicts_what_a_copied_run_does(copy: Path) -> None:
    lines: list[str] = []
    (path,) = cd.export(copy, "keras", log=lines.append)
    assert path == copy / "model.keras"
    assert "on 64 drawings, as the run's photos are not at hand" in lines[0]
    model: Any = reference.import_keras().saving.load_model(path)
    found = model.predict(photos(3, 40, 50), verbose=0)  # resized inside
    found_32 = model.predict(photos(3, SIZE, SIZE), verbose=0)
    expected = cd.predict(copy, photos(3, SIZE, SIZE)).probabilities
    np.testing.assert_allclose(found_32, expected, atol=1e-4)
    assert found.shape == (3, 2)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt") == b"cats\ndogs\n"
        about = json.loads(archive.read("about.json"))
    assert about["test_accuracy"]["count"] == 12


def test_stablehlo_is_one_program_for_any_number_and_size(copy: Path) -> None:
    (path,) = cd.export(copy, "stablehlo", log=silent)
    as_documented(path, copy)
    found = stablehlo.predict(path, np.repeat(photos(1, 50, 70), 3, axis=0))
    np.testing.assert_allclose(found, found[:1].repeat(3, axis=0), atol=1e-6)
    with zipfile.ZipFile(path) as archive:
        program = export.deserialize(bytearray(archive.read("model.bin")))
    assert program.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("shape", [(300, 260), (47, 70), (20, 33), (96, 96), (32, 32)])
def test_stablehlo_resizes_as_training_does(shape: tuple[int, int]) -> None:
    """Also where the result is half a grey level: 260 / 32 has exact halves, eighths and so on."""
    images = jnp.asarray(photos(2, *shape), jnp.float32)
    resized = stablehlo._resized(stablehlo._resized(images, SIZE, axis=2), SIZE, axis=1)
    expected = np.stack([photo.resized(np.asarray(one, np.uint8), SIZE) for one in images])
    np.testing.assert_array_equal(np.round(resized), expected)


class Counting(networks.Linear):
    """A model that needs to know how many images there are."""

    def __call__(self, images: Any) -> Any:
        return super().__call__(images) + float(images.shape[0]) * 0


@pytest.mark.parametrize("name", [f"{networks.__file__}:Linear", f"{__file__}:Counting"])
def test_stablehlo_is_for_any_model(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = Experiment(name, **{**SETTINGS, "epochs": 1})
    done = run(experiment, tmp_path / "run", log=silent)
    lines: list[str] = []
    (path,) = cd.export(done, "stablehlo", tmp_path / "my.zip", log=lines.append)
    assert "on 12 of the run's test photos" in lines[0]
    one = name.endswith("Counting")
    assert ("takes one image at a time" in caplog.text) == one
    images = photos(2, SIZE, SIZE)
    expected = done.predict(images).probabilities
    np.testing.assert_allclose(stablehlo.predict(path, images), expected, atol=1e-5)
    for to in ("keras", "tflite"):
        with pytest.raises(cd.InputError, match=r"cannot be made of Keras's layers"):
            cd.export(done, to, log=silent)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
def test_tflite_files_predict_what_the_run_does(trained: Run, tmp_path: Path) -> None:
    lines: list[str] = []
    exact, int8 = cd.export(trained, "tflite", tmp_path / "model.tflite", log=lines.append)
    assert [exact.name, int8.name] == ["model.tflite", "model.int8.tflite"]
    assert int8.stat().st_size < 0.5 * exact.stat().st_size
    assert all("test accuracy" in line and "of 12 photos" in line for line in lines[:2])
    with zipfile.ZipFile(int8) as archive:
        measured = json.loads(archive.read("about.json"))["test_accuracy"]
    assert f"test accuracy {100 * measured['accuracy']:.1f} %" in lines[1]
    as_documented(exact, trained)


@pytest.mark.slow
def test_the_command_writes_a_keras_file_in_a_process_of_its_own(
    copy: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.keras"
    assert main(["export", str(copy), "--to", "keras", "--out", str(path)]) == 0
    as_documented(path, copy)


@pytest.mark.usefixtures("_here")
def test_without_training_photos_there_is_no_int8(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion itself is tested above."""
    lines: list[str] = []

    def converted(saved_model: Path, samples: Any) -> bytes:
        assert saved_model.is_dir()
        assert samples is None
        return b"a model"

    def predict(path: Path, images: np.ndarray) -> np.ndarray:
        assert path.read_bytes()
        return cd.predict(copy, images).probabilities.astype(np.float32)

    monkeypatch.setattr(tflite, "converted", converted)
    monkeypatch.setattr(tflite, "predict", predict)
    assert cd.export(copy, "tflite", log=lines.append) == (copy / "model.tflite",)
    assert lines[0] == (
        "note: no file in int8, as the training photos to find its ranges are not at hand"
    )


# What goes wrong.


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["elsewhere", "--to", "keras"], "elsewhere is not a run: it has no config.json"),
        (["{run}", "--to", "onnx"], "onnx"),
        (["{run}", "--to", "keras", "--out", "m.h5"], "m.h5 must end in .keras"),
        (["{run}", "--to", "stablehlo", "--photos", "none.jpg"], "none.jpg"),
        (["{run}", "--to", "stablehlo", "--out", "{run}/config.json/x.zip"], "cannot be created"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], error: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(copy.rglob("*"))
    assert main(["export", *(word.format(run=copy) for word in words)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert error in said[0]
    assert sorted(copy.rglob("*")) == before


def test_a_file_that_predicts_something_else_is_not_written(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(copy.rglob("*"))
    wrong = lambda path, images: np.full((len(images), 2), 0.5, np.float32)  # noqa: E731
    monkeypatch.setattr(stablehlo, "predict", wrong)
    assert main(["export", str(copy), "--to", "stablehlo"]) == 1
    assert "was not written: its predictions differ from the run's by" in capsys.readouterr().err
    assert sorted(copy.rglob("*")) == before
