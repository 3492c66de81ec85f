"""The comparison of histories with Keras: statistics by hand, and the script end to end."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras_parity
import keras_reference
import pytest
from keras_parity import COLUMNS, OURS, ParityOptions, agrees, compare, difference

from catdog_jax.errors import InputError
from catdog_jax.runs.build import load_splits
from catdog_jax.runs.history import DEAD_LOSS
from catdog_jax.runs.recipes import RECIPES

pytestmark = keras_reference.ignore_keras_warnings


def history(*accuracies: float, loss: float = 0.5) -> list[dict[str, float]]:
    return [
        {"loss": loss, "val_loss": loss, "accuracy": accuracy - 0.1, "val_accuracy": accuracy}
        for accuracy in accuracies
    ]


def test_difference_by_hand() -> None:
    # Means 0.7 and 0.65; variances 0.01 and 0.005, over 3 and 2 runs.
    found = difference([0.6, 0.7, 0.8], [0.6, 0.7])
    assert found == pytest.approx({"mean": 0.05, "standard_error": math.sqrt(0.01 / 3 + 0.005 / 2)})
    assert difference([0.6, 0.7, 0.8], [0.6]) is None


@pytest.mark.parametrize(("mean", "verdict"), [(0.019, True), (-0.019, True), (-0.021, False)])
def test_twice_the_standard_error_is_the_criterion(mean: float, verdict: bool) -> None:
    assert agrees({"mean": mean, "standard_error": 0.01}) == verdict


def test_dead_runs_are_counted_and_left_out() -> None:
    dead, living = history(0.5, 0.5, loss=DEAD_LOSS), history(0.6, 0.64)
    ours = [history(0.6, 0.7), history(0.65, 0.62), *[history(0.6, 0.6)] * 3]
    result = compare("model1", ours, "Keras", [dead, dead, living, dead, dead])
    assert result["runs"] == {OURS: 5, "Keras": 5}
    assert result["died"] == {OURS: 0, "Keras": 4}
    assert result["best"][OURS] == [0.7, 0.65, 0.6, 0.6, 0.6]
    assert result["best"]["Keras"] == [0.64]
    # 0 of 5 died here, 4 of 5 in Keras: of C(10,4) = 210 ways, 5 + 5 are as extreme.
    assert result["died_p"] == pytest.approx(10 / 210)
    table = keras_parity.result_tables([result])
    assert "| model1 | Keras | 0 of 5 | 4 of 5 | 63.0 ± 4.5 % (60.0 … 70.0) | 64.0 % |" in table
    assert "too few living runs" in table
    assert "model1 against Keras p = 0.05" in table


def test_the_last_epochs_are_averaged() -> None:
    long = history(0.1, *[0.6] * 4, 0.7)
    result = compare("model2", [long, long], "Keras", [long, history(*[0.5] * 6)])
    assert result["last"]["val_accuracy"][OURS] == pytest.approx([0.62, 0.62])
    assert result["last"]["val_accuracy"]["difference"]["mean"] == pytest.approx(0.06)
    assert result["best"]["difference"]["mean"] == pytest.approx(0.1)


def test_histories_are_compared_epoch_by_epoch() -> None:
    ours, theirs = [[0.5, 0.9], [0.6, 0.9]], [[0.5, 0.1], [0.62, 0.12]]
    assert keras_parity.epochs_that_agree(ours, theirs) == "1 of 2"
    assert keras_parity.epochs_that_agree(ours, []) == "–"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"changes": {"augment": ()}}, "--augment would change only our side"),
        ({"changes": {"model_options": ()}}, "--model-options would change only our side"),
        ({"models": ("model3", "model3")}, "--models has duplicates"),
        ({"models": ()}, "no models to compare"),
        ({"keras_seeds": -1}, "--keras-seeds must be 0 or more, not -1"),
        ({"recorded": Path("nowhere")}, "nowhere is not a folder"),
        ({"recorded": Path(__file__).parent}, "no Keras runs to compare model1 with"),
    ],
)
def test_an_unfair_or_impossible_comparison_is_refused(change: Any, said: str) -> None:
    few = {"data": "sketches", "image_size": 32, "sizes": (40, 20, 10)}
    with pytest.raises(InputError, match=said):
        keras_parity.main(replace(ParityOptions(changes=few), **change))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a Keras run: KeyError"),
        ('{"history": {"loss": [1]}}', "is not a Keras run: KeyError"),
        ('{"history": {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}}', "empty"),
        ('{"history": {"loss": [1], "accuracy": [1], "val_loss": [1], "val_accuracy": [1]}}', "20"),
    ],
)
def test_a_recorded_file_that_is_not_such_a_run_is_named(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "k_m1_s0.json").write_text(content)
    with pytest.raises(InputError, match=rf"k_m1_s0\.json .*{said}"):
        keras_parity.read_recorded(ParityOptions(recorded=tmp_path), "model1")
    assert keras_parity.read_recorded(ParityOptions(recorded=tmp_path), "model2") == []


CHANGES = {
    "data": "sketches",
    "weights": "none",
    "image_size": 32,
    "sizes": (40, 20, 10),
    "epochs": 2,
}
SMALL = ParityOptions(changes=CHANGES, seeds=2)


@pytest.mark.slow
def test_trains_both_sides_and_later_only_missing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slow: three runs of Keras."""
    options = replace(SMALL, models=("model3",), out=tmp_path)
    keras_parity.main(options)
    assert "| model3 | Keras | 0 of 2 | 0 of 2 |" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "keras_parity.json").read_text())
    curves: dict[str, list[list[float]]] = result["curves"]["val_accuracy"]
    assert [len(curve) for side in (OURS, "Keras") for curve in curves[side]] == [2, 2, 2, 2]
    assert (tmp_path / "keras_parity.png").read_bytes().startswith(b"\x89PNG")

    def written(name: str) -> int:
        return (tmp_path / name).stat().st_mtime_ns

    first = [written(name) for name in ("model3-seed0/metrics.json", "keras/model3-seed0.json")]
    (tmp_path / "keras" / "model3-seed1.json").unlink()
    keras_parity.main(options)
    assert (tmp_path / "keras" / "model3-seed1.json").exists()
    assert first == [
        written(name) for name in ("model3-seed0/metrics.json", "keras/model3-seed0.json")
    ]
    (again,) = json.loads((tmp_path / "keras_parity.json").read_text())
    assert again["curves"]["val_accuracy"][OURS] == curves[OURS]
    assert again["curves"]["val_accuracy"]["Keras"][0] == curves["Keras"][0]

    keras_parity.main(replace(options, seeds=1))
    (with_one_seed,) = json.loads((tmp_path / "keras_parity.json").read_text())
    assert with_one_seed == again

    with pytest.raises(InputError, match=r"model3-seed0\.json has other settings or photos"):
        keras_parity.main(replace(options, changes={**CHANGES, "epochs": 3}))


@pytest.mark.slow
def test_model_4_in_keras_trains_its_head() -> None:
    """Slow: Keras compiles MobileNetV2."""
    experiment = SMALL.adapt(RECIPES["model4"])
    splits = load_splits(experiment)
    history = keras_parity.train_keras(experiment, splits)
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(COLUMNS, 2)
    assert history["loss"][0] != history["loss"][1]


def test_the_recorded_runs_of_keras(shared: Path) -> None:
    folder = shared / "reference" / "keras"
    if not folder.is_dir():
        pytest.skip(f"no recorded runs: {folder} is absent")
    for model in ("model1", "model2", "model3", "model4"):
        histories = keras_parity.read_recorded(ParityOptions(recorded=folder), model)
        assert len(histories) >= 3
        result = compare(model, histories, "Keras, recorded", histories)
        assert (result["died"]["Keras, recorded"] > 0) == (model == "model1")
        assert all(len(one) == 20 for one in histories)
