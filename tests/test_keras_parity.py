"""The comparison of histories with Keras: its statistics by hand, the script from end to end."""

import json
import math
from pathlib import Path
from typing import Any

import keras_parity
import keras_reference
import pytest
from keras_parity import KERAS, OURS, ParityOptions, agrees, compare, difference

from catdog_jax.errors import InputError
from catdog_jax.report import DEAD_LOSS

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
    dead = history(0.5, 0.5, loss=DEAD_LOSS)
    ours = [history(0.6, 0.7), dead, history(0.65, 0.62)]
    result = compare("model1", ours, [dead, dead, history(0.6, 0.64)])
    assert result["died"] == {OURS: 1, KERAS: 2}
    assert result["best"] == {OURS: [0.7, 0.65], KERAS: [0.64]}
    # One dead of three against two: 2 · C(3,1) C(3,2) / C(6,3) + 2 / C(6,3) … all tables, so 1.
    assert result["died_p"] == pytest.approx(1)
    table = keras_parity.tables([result])
    assert "| model1 | 1 of 3 | 2 of 3 | 67.5 ± 3.5 % | 64.0 % (one run) " in table
    assert "too few living runs" in table
    assert "model1: p = 1.00" in table


def test_histories_are_compared_epoch_by_epoch() -> None:
    curves = {OURS: [[0.5, 0.9], [0.6, 0.9]], KERAS: [[0.5, 0.1], [0.62, 0.12]]}
    assert keras_parity.epochs_that_agree(curves) == "1 of 2"


def test_a_file_that_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "k_m1_s0.json").write_text('{"history": {"loss": [1]}}')
    with pytest.raises(InputError, match=r"k_m1_s0\.json is not a Keras run"):
        keras_parity.read_keras(tmp_path, "model1")
    assert keras_parity.read_keras(tmp_path, "model2") == []


def test_trains_both_and_then_reads_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ParityOptions(
        data="sketches",
        image_size=32,
        sizes=(40, 20, 10),
        epochs=2,
        models=("model2", "model3"),
        seeds=2,
        out=tmp_path,
    )
    keras_parity.main(options)
    assert sorted(path.name for path in (tmp_path / "keras").iterdir()) == [
        f"k_m{model}_s{seed}.json" for model in (2, 3) for seed in (0, 1)
    ]
    result: list[dict[str, Any]] = json.loads((tmp_path / "keras_parity.json").read_text())
    assert [one["model"] for one in result] == ["model2", "model3"]
    for one in result:
        assert one["runs"] == {OURS: 2, KERAS: 2}
    curves = result[1]["val_accuracy"]
    assert [len(curve) for side in (OURS, KERAS) for curve in curves[side]] == [2, 2, 2, 2]
    assert (tmp_path / "keras_parity.png").read_bytes().startswith(b"\x89PNG")

    def refuse(*_: Any) -> None:
        pytest.fail("trained again")

    monkeypatch.setattr(keras_parity, "train_keras", refuse)
    keras_parity.main(options)
    assert json.loads((tmp_path / "keras_parity.json").read_text()) == result
    assert "| model3 | 0 of 2 | 0 of 2 |" in capsys.readouterr().out


def test_the_recorded_runs_of_keras(shared: Path) -> None:
    folder = shared / "reference" / "keras"
    if not folder.is_dir():
        pytest.skip(f"no recorded runs: {folder} is absent")
    for model in ("model1", "model2", "model3", "model4"):
        histories = keras_parity.read_keras(folder, model)
        assert len(histories) == 3
        result = compare(model, histories, histories)
        assert result["died"][KERAS] == (2 if model == "model1" else 0)
        assert all(len(one) == 20 for one in histories)
