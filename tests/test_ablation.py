"""The ablation: photos as one file, runs of a small model, and the table's arithmetic."""

import json
import math
from pathlib import Path
from typing import Any

import ablation
import numpy as np
import pytest
from ablations.photos import pack, unpacked
from ablations.summary import effects, packed, table_of
from helpers import LINEAR, write_drawings

from catdog_jax.errors import InputError

BASE, OTHER = "the recipe", "no mixup"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings; a few of the second folder's are copies of the first's."""
    folder = tmp_path_factory.mktemp("ablation")
    own = write_drawings(folder / "own", {"cats": 40, "dogs": 40})
    other = write_drawings(folder / "other", {"cat": 30, "dog": 30}, seed=1)
    for index in range(3):
        (other / f"cat/copy{index}.png").write_bytes((own / f"cats/{index}.png").read_bytes())
    pack(str(own), str(other), image_size=32, megabytes=1, out=folder / "photos.npz")
    return folder / "photos.npz"


def test_photos_are_unpacked_without_copies_nearly_as_they_were(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = unpacked(photos)
    assert parts["train"].images.shape[1:] == (32, 32, 3)
    assert parts["train"].class_names == ("cats", "dogs")
    assert np.bincount(parts["unseen"].labels).tolist() == [30, 30]
    folder = photos.parent
    own, size = str(folder / "own"), photos.stat().st_size / 1e6
    pack(own, str(folder / "other"), None, 32, 0.8 * size, folder / "small.npz")
    assert 0 < len(unpacked(folder / "small.npz")["unseen"]) < 60
    assert (folder / "small.npz").stat().st_size < 0.85e6 * size
    assert " of 60 photos, " in capsys.readouterr().out
    with pytest.raises(InputError, match=r"0\.001 megabytes are too few for the train photos"):
        pack(own, own, None, 32, 0.001)


def test_settings_are_trained_once_and_compared(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ablation, "RECIPE", LINEAR)
    monkeypatch.setattr(ablation, "SETTINGS", {BASE: {}, OTHER: {"learning_rate": 0.01}})
    options: dict[str, Any] = {"photos": photos, "out": tmp_path / "ablation.json", "jobs": 1}
    ablation.run(**options, epochs=1, settings=(BASE,), minutes=0)
    assert not options["out"].exists()
    ablation.run(**options, epochs=1, settings=(BASE,), seeds=1)
    ablation.run(**options, epochs=1, settings=(BASE, OTHER), seeds=2)
    rows = json.loads(options["out"].read_text())["rows"]
    assert [(row["setting"], row["seed"]) for row in rows] == [
        (BASE, 0), (OTHER, 0), (BASE, 1), (OTHER, 1)
    ]  # fmt: skip
    assert all(int(row["hits"], 16).bit_count() == row["correct_mirrored"] for row in rows)
    with pytest.raises(InputError, match="is of other photos or epochs"):
        ablation.run(**options, epochs=2, settings=(BASE,))
    with pytest.raises(InputError, match="no setting 'nothing'; choose from: the recipe, no mixup"):
        ablation.run(**options, settings=("nothing",))
    capsys.readouterr()
    ablation.table(options["out"])
    *lines, _, count = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        [f"| {BASE}", "2"],
        [f"| {OTHER}", "2"],
    ]
    assert count.startswith("60 unseen photos; ")


def test_effects_of_hand_made_hits() -> None:
    """Accuracies 0.5, 0.7 and 0.8, 0.8: the seeds' variance is (0.02 + 0) / 2, with 2 degrees."""
    base = np.array([[1] * 5 + [0] * 5, [1] * 7 + [0] * 3], bool)
    other = np.array([[1] * 8 + [0] * 2] * 2, bool)
    by_photo = np.array([0] * 5 + [0.5] * 2 + [1] + [0] * 2)
    of_photos = 1.96 * by_photo.std(ddof=1) / math.sqrt(10)
    found = effects({BASE: base, OTHER: other}, BASE)
    assert list(found) == [OTHER]
    assert found[OTHER].difference == pytest.approx(0.2)
    assert found[OTHER].half == pytest.approx(math.hypot(4.302653 * 0.1, of_photos))
    alone = effects({BASE: base[:1], OTHER: other}, BASE)[OTHER]
    assert alone.half == pytest.approx(1.96 * np.std([0] * 5 + [1] * 3 + [0] * 2, ddof=1) / 10**0.5)
    assert effects({BASE: base[:1], OTHER: other[:1]}, BASE)[OTHER].half == math.inf


def test_table_of_hand_made_results() -> None:
    def row(setting: str, seed: int, hits: list[int]) -> dict[str, Any]:
        found = {"photos": len(hits), "correct": sum(hits) - 1, "hits": packed(np.array(hits))}
        return {"setting": setting, "seed": seed, **found}

    rows = [row(OTHER, 0, [1] * 9 + [0]), row(BASE, 0, [1] * 8 + [0] * 2)]
    assert table_of(rows, [BASE, OTHER]).splitlines()[2:] == [
        "| the recipe | 1 | 70.0 % | 80.0 % | – |",
        "| no mixup | 1 | 80.0 % | 90.0 % | +10.0 |",
    ]
    rows += [row(BASE, 1, [1] * 8 + [0] * 2), {"setting": OTHER, "seed": 1, "error": "nan"}]
    assert table_of(rows, [BASE, OTHER]).splitlines()[3] == (
        "| no mixup (1 failed) | 1 | 80.0 % | 90.0 % | +10.0 [-9.6, +29.6] |"
    )
    with pytest.raises(InputError, match="no results of 'the recipe'"):
        table_of(rows[:1], [BASE, OTHER])
