"""Photos are classified: by the package's own network, by a run, from files, folders and stdin."""

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flax import nnx
from helpers import SMALL
from PIL import Image

import catdog_jax as cd
from catdog_jax.cli import main
from catdog_jax.data import sketches
from catdog_jax.errors import InputError
from catdog_jax.models import ready_made
from catdog_jax.models.resnet import Model6
from catdog_jax.runs import classifier as classifiers
from catdog_jax.runs import demo as demos
from catdog_jax.runs.classifier import AT_ONCE, Classifier, classifier
from catdog_jax.runs.experiment import Experiment
from catdog_jax.runs.predictions import Predictions
from catdog_jax.runs.results import Run


class ByRed(nnx.Module):
    """The redder a photo, the surer the second class."""

    def __call__(self, images: Any) -> Any:
        red = images[..., 0].mean(axis=(1, 2)) / 127.5 - 1
        return np.float32(5) * red[:, None] * np.array([[-1.0, 1.0]], np.float32)


@pytest.fixture
def by_red(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """Stands in for the package's network, which takes seconds to compile."""
    asked = Classifier(ByRed(), Experiment(""), ("blue", "red"), 8, sure_above=0.9, about="by red")
    monkeypatch.setattr(classifiers, "classifier", lambda run=None: asked)
    return asked


def flat(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for red in (0, 140, 255):
        (folder / f"{red:03}.png").write_bytes(flat(red))
    return folder


def test_answers_are_lines_json_or_csv(
    by_red: Classifier, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(photos), str(photos / "absent.png")]
    assert main(words) == 1
    out, said = capsys.readouterr()
    lines = [line.removeprefix(f"{photos}/") for line in out.splitlines()]
    assert lines[:3] == ["000.png  blue  100.0 %", "140.png  not sure (red 72.7 %)",
                         "255.png  red  100.0 %"]  # fmt: skip
    assert "absent.png  error: " in lines[3]
    assert said == "note: by red\n"
    assert main([*words, "--json"]) == 1
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [record.get("class") for record in records] == ["blue", "red", "red", None]
    assert [record.get("sure") for record in records] == [True, False, True, None]
    assert records[1]["probabilities"]["red"] == pytest.approx(0.727, abs=1e-3)
    assert "No such file" in records[3]["error"]
    assert main([*words, "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, record in zip(rows, records, strict=True):
        assert row["file"] == record["file"]
        assert row["error"] == record.get("error", "")
        assert row["class"] == record.get("class", "")
    assert float(rows[1]["red"]) == records[1]["probabilities"]["red"]


def test_patterns_and_standard_input(
    by_red: Classifier,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(flat(255))))
    assert main(["predict", str(photos / "[01]*.png"), "-", str(photos / "*.gif")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines[:3]] == ["blue", "not sure (red 72.7 %)", "red"]
    assert lines[2] == "-  red  100.0 %"
    assert "error: no file fits " in lines[3]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"no photo")))
    assert main(["predict", "-"]) == 1
    assert "-  error: cannot be decoded as a photo: unknown image format" in capsys.readouterr().out


def test_a_run_among_the_photos_is_an_error_that_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "history.csv"):
        (tmp_path / name).write_text("{}")
    assert main(["predict", "a.jpg", str(tmp_path)]) == 2
    assert "holds no photos; to use a run's model, write --run RUN" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds runs, not photos"):
        cd.predict(tmp_path)
    assert main(["predict", "a.jpg", "--json", "--csv"]) == 2


def test_many_photos_are_a_stream_in_batches(
    by_red: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more photos are asked for than two batches; batches are 1, 2, 4, … 32."""
    asked, sizes = [], []
    predict = Classifier.predict

    def count(self: Classifier, images: np.ndarray, names: Any = ()) -> Any:
        sizes.append(len(images))
        return predict(self, images, names)

    def endless() -> Iterator[tuple[str, bytes]]:
        while True:
            asked.append(None)
            yield str(len(asked)), flat(len(asked) % 256)

    monkeypatch.setattr(Classifier, "predict", count)
    answers = by_red.answers(endless())
    names = [next(answers)["file"] for _ in range(100)]
    assert names == [str(1 + i) for i in range(100)]
    assert len(asked) <= 100 + 3 * AT_ONCE
    assert set(sizes) == {AT_ONCE}


def test_the_ready_made_network_answers_from_python(tmp_path: Path) -> None:
    """On drawings, which it was not trained on; that it is right on photos is tested below."""
    images, _ = sketches.draw(2, 64)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    found = cd.predict(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert found.sure_above == ready_made.facts()["sure_above"]
    records = [*classifier().answers((path, Path(path)) for path in found.names)]
    for name, shares, record in zip(found.names, found.probabilities, records, strict=True):
        assert record["file"] == name
        np.testing.assert_allclose([*record["probabilities"].values()], shares, atol=1e-5)
    with pytest.raises(InputError, match="no file fits"):
        cd.predict(str(tmp_path / "*.jpg"))


def test_a_modules_own_size_is_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), (200, 0, 0)).save(tmp_path / "a.png")
    network = Model6(widths=(8,), blocks=(1,), image_size=32, rngs=nnx.Rngs(0))
    assert cd.predict(network, tmp_path / "a.png", image_size=32).logits.shape == (1, 2)


def test_pixels_are_photos_too(tmp_path: Path) -> None:
    """An image, several, or a Pillow image; resized to the size of the classifier as files are."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = cd.predict(tmp_path / "a.png")
    for given in (pixels, pixels[None], pixels.astype(np.float32), Image.fromarray(pixels)):
        np.testing.assert_array_equal(cd.predict(given).logits, expected.logits)
    record = expected.records()[0]
    assert str(expected).startswith(str(tmp_path / "a.png"))
    assert record["class"] in str(expected)
    with pytest.raises(InputError, match="values up to 1; give pixels"):
        cd.predict(pixels / 255)
    with pytest.raises(InputError, match="images are"):
        cd.predict(pixels[:, :, 0])
    with pytest.raises(InputError, match="photos are paths or pixels, not int"):
        cd.predict(cast(Any, 3))
    with pytest.raises(InputError, match="web addresses"):
        cd.predict("https://example.org/cat.jpg")
    with pytest.raises(InputError, match="empty"):
        cd.predict("")


def test_a_tie_is_never_sure() -> None:
    """The answer of a model that died."""
    logits = np.array([[0.0, 0.0], [0.0, 1.0]], np.float32)
    tie, answer = Predictions(("a", "b"), ("cat", "dog"), logits, sure_above=0.5).records()
    assert (tie["sure"], answer["sure"]) == (False, True)


@pytest.mark.slow
def test_a_photo_is_classified_without_tensorflow(shared: Path, tmp_path: Path) -> None:
    """Slow: a process of its own. A photo of the post, by a program that cannot import it."""
    import zipfile

    with zipfile.ZipFile(shared / "data/cats_and_dogs_filtered.zip") as photos:
        name = next(n for n in photos.namelist() if n.endswith("validation/dogs/dog.2000.jpg"))
        (tmp_path / "dog.jpg").write_bytes(photos.read(name))
    blocked = "import sys; sys.modules['tensorflow'] = None; "
    code = blocked + "from catdog_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(tmp_path / "dog.jpg"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["class"] == "dog"


# The demonstration.


def test_the_demo_trains_each_model_until_one_learns_then_classifies(
    by_red: Classifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it trains is only told here; a slow test in test_cli trains the real one."""
    dying, guessing = {0}, {1}

    def trained(experiments: Any, out: Path, log: Any) -> list[Any]:
        (one,) = experiments
        row = dict.fromkeys(("loss", "val_loss"), math.log(64) if one.seed in dying else 0.6)
        row |= {"accuracy": 0.5, "val_accuracy": 0.7, "epoch": 1, "seconds": 1.0}
        best = {"val_accuracy": 0.7, "interval": (0.48 if one.seed in guessing else 0.52, 0.86)}
        metrics = {"best": best, "baseline": {"validation": 0.5}}
        folder = out / f"seed{one.seed}"
        folder.mkdir(parents=True)
        return [Run(folder, one, ("cat", "dog"), 32, {}, [row], metrics)]

    monkeypatch.setattr(demos, "run_series", trained)
    monkeypatch.setattr(demos, "_on_drawings", lambda asked: "80.0 %")
    monkeypatch.setattr(demos, "classifier", lambda: by_red)
    lines: list[str] = []
    given = [(path.name, path) for path in sorted(photos.iterdir())]
    runs: Any = demos.demo([SMALL], tmp_path / "demo", given, log=lines.append)
    assert [run.experiment.seed for run in runs] == [2]
    assert lines[0].startswith("Validation accuracy on 20 drawings of heads that lie any way")
    assert lines[1:4] == [
        "  model3  died with seed 0: all its outputs became zero",
        "  model3  with seed 1 no better than guessing: 70.0 % [48.0, 86.0]",
        "  model3  70.0 % [52.0, 86.0]",
    ]
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["seed2"]
    assert lines[4] == "Now by red."
    assert [line.split()[1] for line in lines[6:]] == ["blue", "not", "red"]
    dying.update(range(9))
    assert demos.demo([SMALL], tmp_path / "dead", log=lines.append) == []
