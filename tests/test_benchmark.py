"""The benchmark: statistics of hand-made turns, options, and workers end to end."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark
import numpy as np
import pytest
from contenders import photos, summary, worker, workloads
from contenders.options import BenchmarkOptions
from contenders.summary import KERAS_JAX, KERAS_TENSORFLOW, OURS, TORCH_COMPILE, Spread, Turn
from contenders.turns import take_turn
from contenders.workloads import CONTENDERS

from catdog_jax.cli import guarded
from catdog_jax.data import sketches
from catdog_jax.data.photo import decode_file
from catdog_jax.errors import InputError, RunError

QUICK = BenchmarkOptions(quick=True)


def turn(workload: str, contender: str, number: int, *seconds: float, **other: Any) -> Turn:
    measured = {"seconds": list(seconds), "first": 9.0, "peak_mib": 100.0, "error": None}
    return {"work": workload, "contender": contender, "round": number, **measured, **other}


def test_a_turn_counts_with_its_median() -> None:
    turns = [
        turn("forward", OURS, 0, 1.0, 2.0, 30.0),
        turn("forward", OURS, 1, 4.0, 5.0),
        turn("augment", OURS, 0, 7.0),
        turn("forward", TORCH_COMPILE, 0, 8.0),
    ]
    assert summary.by_round(turns, "forward", OURS) == {0: 2.0, 1: 4.5}
    assert summary.by_round(turns, "forward", OURS, "first") == {0: 9.0, 1: 9.0}
    assert summary.by_round(turns, "forward", KERAS_TENSORFLOW) == {}


def test_ratios_are_of_the_same_round() -> None:
    turns = [
        turn("forward", OURS, 0, 1.0),
        turn("forward", OURS, 1, 2.0),
        turn("forward", OURS, 2, 4.0),
        turn("forward", KERAS_TENSORFLOW, 0, 3.0),
        turn("forward", KERAS_TENSORFLOW, 2, 2.0),
        turn("forward", TORCH_COMPILE, 0, 5.0),
        turn("forward", TORCH_COMPILE, 1, 5.0),
    ]
    assert summary.ratios(turns, "forward", [KERAS_TENSORFLOW]) == [3.0, 0.5]
    assert summary.ratios(turns, "forward", [KERAS_TENSORFLOW, TORCH_COMPILE]) == [3.0]
    assert summary.ratios(turns, "forward", [OURS]) == [1.0, 1.0, 1.0]
    assert summary.ratios(turns[3:], "forward", [KERAS_TENSORFLOW]) == []
    assert summary.spread([3.0, 2.5, 0.5]) == Spread(2.5, 0.5, 3.0)
    assert summary.spread([]) is None


def test_failures_and_unknown_memory_are_left_out() -> None:
    failed = {"work": "forward", "contender": OURS, "round": 1, "error": "exit code 1: broken"}
    turns = [turn("forward", OURS, 0, 1.0, peak_mib=None), failed]
    assert summary.by_round(turns, "forward", OURS) == {0: 1.0}
    assert summary.by_round(turns, "forward", OURS, "peak_mib") == {}
    assert "- catdog_jax, round 2: failed: exit code 1: broken" in summary.tables(turns)


def test_tables_of_hand_made_turns() -> None:
    turns = [
        turn("epoch-model4", OURS, 0, 10.0, first=20.0, peak_mib=1000.0),
        turn("epoch-model4", OURS, 1, 8.0, first=24.0, peak_mib=1100.0),
        turn("epoch-model4", KERAS_TENSORFLOW, 0, 31.0, peak_mib=900.0),
        turn("epoch-model4", KERAS_TENSORFLOW, 1, 32.0, peak_mib=900.0),
        turn("step-model1", OURS, 0, 0.25, device="2 × cpu"),
        turn("forward", OURS, 0, 1.0),
        turn("forward", KERAS_TENSORFLOW, 0, 1.5),
    ]
    table = summary.tables(turns)
    for line in (
        "| epoch-model4, first epoch | keras-tensorflow | 0.41 (0.38 … 0.45) | ≥ 1 | no |",
        "| epoch-model4, later epoch | keras-tensorflow | 3.55 (3.10 … 4.00) | ≥ 3 | yes |",
        "| epoch-model4, later epoch | keras-jax | – | ≥ 12 | not measured |",
        "| epoch-model4, peak memory | keras-tensorflow | 0.86 (0.82 … 0.90) | ≥ 1 | no |",
        "| contender | later epoch, s | first epoch, s | peak MiB | time ÷ ours |",
        "| catdog_jax | 9.00 (8.00 … 10.0) | 22.0 (20.0 … 24.0) | 1050 (1000 … 1100) "
        "| 1.00 (1.00 … 1.00) |",
        "| forward, batch | keras-tensorflow | 1.50 (1.50 … 1.50) | ≥ 1.3 | yes |",
        "| contender | step, ms | first call, s | peak MiB | time ÷ ours |",
        "| contender | batch, ms | first call, s | time ÷ ours |",
        "- catdog_jax: 2 × cpu",
        "| catdog_jax | 250 (250 … 250) | 9.00 (9.00 … 9.00) | 100 (100 … 100) "
        "| 1.00 (1.00 … 1.00) |",
    ):
        assert line in table.splitlines()
    assert "model3" not in table


def test_a_dead_model_is_reported() -> None:
    turns = [turn("epoch-model1", OURS, n, 1.0, loss=loss) for n, loss in enumerate((4.0, 4.1589))]
    table = summary.tables(turns)
    assert "- catdog_jax, round 2: the model died" in table
    assert "round 1: the model died" not in table


def test_a_target_met_exactly_counts_as_met() -> None:
    turns = [turn("augment", OURS, 0, 2.0), turn("augment", KERAS_TENSORFLOW, 0, 6.0)]
    assert "| 3.00 (3.00 … 3.00) | ≥ 3 | yes |" in summary.tables(turns)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workloads": ("epochs",)}, "unknown workload 'epochs'; choose from: epoch-model1, "),
        ({"workloads": ()}, "no workloads to run; check --workloads"),
        ({"workloads": ("growth",)}, "no workloads to run; check --workloads"),
        ({"contenders": ("theano",)}, "unknown contender 'theano'; choose from: catdog_jax, "),
        ({"contenders": ()}, "no contenders to run; check --contenders"),
        ({"quick": False}, "set --data to the photos"),
        ({"quick": False, "data": Path("nowhere"), "rounds": 0}, "--rounds must be 1 or more"),
        ({"quick": False, "data": Path("nowhere"), "epochs": 1}, "--epochs must be 2 or more"),
        ({"quick": False, "data": Path("nowhere"), "run_epochs": 0}, "--run-epochs must be 1 or"),
        ({"quick": False, "data": Path("nowhere"), "batch_size": 0}, "--batch-size must be 1 or"),
        ({"data": Path("nowhere")}, "--data nowhere does not exist"),
        ({"weights": "nowhere.h5"}, "no weights file at nowhere.h5"),
    ],
)
def test_wrong_input_is_reported(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    options = replace(QUICK, out=tmp_path, **change)
    with pytest.raises(InputError, match=said):
        benchmark.main(options)
    assert not (tmp_path / "benchmark.json").exists()


def test_wrong_input_ends_in_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--quick", "--workloads", "nothing"])
    assert guarded(benchmark.parse_and_run) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown workload 'nothing'")
    assert error.count("\n") == 1


def test_workloads_are_chosen_by_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = workloads.chosen_workloads
    assert chosen(["step-model4", "epoch"], with_tfds=False) == [
        *(f"epoch-model{n}" for n in (1, 2, 3, 4)),
        "step-model4",
    ]
    assert chosen(["growth-2", "aug"], with_tfds=True) == ["augment", "growth-2000"]
    assert not capsys.readouterr().out
    assert chosen(["growth", "aug"], with_tfds=False) == ["augment"]
    assert "it needs photos from --tfds" in capsys.readouterr().out


def test_contenders_that_are_not_installed_are_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workloads, "find_spec", lambda name: None if name == "torch" else name)
    assert workloads.installed(list(CONTENDERS)) == [OURS, KERAS_TENSORFLOW, "keras-jax"]
    assert capsys.readouterr().out.splitlines() == [
        "skipping torch-eager: torch not installed",
        "skipping torch-compile: torch not installed",
    ]
    with pytest.raises(InputError, match="no contenders to run"):
        workloads.installed([TORCH_COMPILE])


def test_without_tensorflow_keras_on_jax_only_runs_in_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workloads, "find_spec", lambda name: None if name == "tensorflow" else name)
    names = workloads.installed([KERAS_TENSORFLOW, KERAS_JAX])
    assert names == [KERAS_JAX]
    assert (
        "keras-jax only runs step, finetune, memory, forward, augment: " in capsys.readouterr().out
    )
    assert workloads.rotated("memory-model1", names, 0) == names
    assert workloads.rotated("epoch-model1", names, 0) == []


def test_able_contenders_take_turns_going_first() -> None:
    names = list(CONTENDERS)
    assert workloads.rotated("forward", names, 0) == names
    assert workloads.rotated("forward", names, 1) == [*names[1:], OURS]
    assert workloads.rotated("epoch-model1", names, 4) == [KERAS_TENSORFLOW, "keras-jax", OURS]
    assert workloads.rotated("growth-500", [TORCH_COMPILE], 1) == []


def test_the_worker_counts_calls_and_epochs() -> None:
    calls = []
    result = worker.time_calls(lambda: calls.append(1), 4)
    assert len(result["seconds"]) == 4
    assert len(calls) == 1 + worker.WARM_UPS + 4
    assert worker.time_epochs([1.0, 4.0, 5.0, 5.5]) == {"first": 3.0, "seconds": [1.0, 0.5]}
    peak = worker.peak_mib()
    assert peak is None or peak > 10


def test_another_network_or_a_no_op_is_not_timed() -> None:
    worker.check_parameters("mobilenet", 2_257_984)
    with pytest.raises(ValueError, match="3 parameters are not mobilenet's 2257984"):
        worker.check_parameters("mobilenet", 3)
    with pytest.raises(ValueError, match="left the images as they were"):
        worker.check_changed(False)


def test_photos_are_found_at_the_top_or_in_a_sub_folder(tmp_path: Path) -> None:
    drawn = photos.prepare(tmp_path, None, None, [], 32, 16)
    assert drawn.photos.counts == photos.DRAWINGS
    folder = drawn.photos.folder
    assert photos.prepare(tmp_path, folder, None, [], 32, 16).photos == drawn.photos
    (tmp_path / "wrapped").mkdir()
    (tmp_path / "wrapped" / "photos").symlink_to(folder)
    assert photos.prepare(tmp_path, tmp_path / "wrapped", None, [], 32, 16).photos.counts == (
        photos.DRAWINGS
    )
    with pytest.raises(InputError, match="not a readable zip"):
        photos.prepare(tmp_path, Path(__file__), None, [], 32, 16)
    with pytest.raises(InputError, match="must have train/ and validation/"):
        photos.prepare(tmp_path, folder / "train", None, [], 32, 16)
    with pytest.raises(InputError, match="64 training photos do not fill a batch of 65"):
        photos.prepare(tmp_path, None, None, [], 32, 65)


def test_all_photos_are_decoded_without_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    prepared = photos.prepare(tmp_path, None, None, [], 32, 16, with_arrays=True)
    train, validation = worker.load_arrays(str(prepared.arrays))
    for (images, labels), count in zip((train, validation), photos.DRAWINGS, strict=True):
        assert images.shape == (count, 32, 32, 3)
        assert images.dtype == np.uint8
        assert sorted(set(labels.tolist())) == [0, 1]
    folder = prepared.photos.folder / "train" / sketches.CLASS_NAMES[1]
    first = decode_file(min(folder.iterdir()), 32)
    (dogs,) = np.nonzero(train[1])
    assert any(np.array_equal(image, first) for image in train[0][dogs])
    with np.load(prepared.batch) as batch:
        pairs = zip(batch["image"], batch["label"], strict=True)
        known = {image.tobytes(): label for image, label in zip(*train, strict=True)}
        assert all(known[image.tobytes()] == label for image, label in pairs)
    assert photos.prepare(tmp_path, None, None, [], 32, 16).arrays is None


def worker_script(folder: Path, code: str) -> Path:
    """A worker that runs `code`, which makes a `result` from its `spec`."""
    script = folder / "worker.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        "spec = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        f"{code}"
        "pathlib.Path(spec['result']).write_text(json.dumps(result))\n"
    )
    return script


@pytest.mark.parametrize(
    ("precision", "of_jax"), [("float32", "float32"), ("tf32", "default"), ("bfloat16", "")]
)
def test_the_precision_reaches_the_worker(
    precision: Any, of_jax: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    script = worker_script(
        tmp_path,
        "seen = [spec['precision'], os.environ.get('JAX_DEFAULT_MATMUL_PRECISION', '')]\n"
        "result = {'seen': seen}\n",
    )
    ours = replace(CONTENDERS[OURS], worker=str(script))
    monkeypatch.setattr(workloads, "CONTENDERS", {OURS: ours})
    drawn = photos.prepare(tmp_path / "prepared", None, None, [], 32, 16)
    options = replace(QUICK, precision=precision, out=tmp_path)
    turn = take_turn(options, drawn, "memory-model1", OURS, 0, tmp_path / "logs/log")
    assert turn["error"] is None
    assert turn["seen"] == [precision, of_jax]


def test_a_failing_worker_is_reported_and_the_others_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, slow = tmp_path / "broken.py", tmp_path / "slow.py"
    broken.write_text("raise SystemExit('out of\\nluck')")
    slow.write_text("import time; time.sleep(60)")
    contenders = {
        OURS: replace(CONTENDERS[OURS], worker=str(broken)),
        KERAS_TENSORFLOW: replace(CONTENDERS[KERAS_TENSORFLOW], worker=str(slow)),
    }
    monkeypatch.setattr(workloads, "CONTENDERS", contenders)
    # Not in a process of its own, which would import TensorFlow again.
    drawn = photos.prepare(tmp_path / "out/prepared", None, None, [], 32, 16)
    monkeypatch.setattr(benchmark, "prepare_in_subprocess", lambda *_: drawn)
    options = replace(
        QUICK,
        workloads=("augment",),
        contenders=tuple(contenders),
        timeout=3,  # to start Python, too
        out=tmp_path / "out",
    )
    with pytest.raises(RunError, match="catdog_jax failed in augment; see "):
        benchmark.main(options)
    turns = json.loads((tmp_path / "out" / "benchmark.json").read_text())["turns"]
    assert [row["error"] for row in turns] == ["exit code 1: luck", "timed out after 3 s"]
    assert "round 1: failed: exit code 1: luck" in (tmp_path / "out/benchmark.md").read_text()
    assert "failed: timed out after 3 s" in capsys.readouterr().out


@pytest.mark.slow
def test_a_start_runs_cold_then_warm_with_the_same_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: eight processes."""
    script = worker_script(
        tmp_path,
        "cache = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])\n"
        "first = 1.0 if cache.exists() else 5.0\n"
        "cache.mkdir(exist_ok=True)\n"
        "result = {'first': first, 'seconds': [], 'peak_mib': 1.0, 'device': spec['model']}\n",
    )
    ours = replace(CONTENDERS[OURS], command_worker=str(script))
    monkeypatch.setattr(workloads, "CONTENDERS", {OURS: ours})
    options = replace(QUICK, workloads=("start",), contenders=(OURS,), out=tmp_path / "out")
    for row, model in zip(measured(options), ("model3", "model4"), strict=True):
        assert row["first"] == 5.0
        assert row["seconds"] == [1.0]
        assert row["device"] == model
    assert [row["round"] for row in measured(options)] == [0, 0, 1, 1]
    monkeypatch.setattr(benchmark, "describe_machine", lambda: {"cpu": "another"})
    with pytest.raises(InputError, match=r"benchmark\.json is from another machine"):
        benchmark.main(options)
    (tmp_path / "out/benchmark.json").write_text("{}")
    with pytest.raises(InputError, match=r"benchmark\.json is not a benchmark result: KeyError"):
        benchmark.main(options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contender", "workload", "count"),
    [
        (OURS, "epoch-model3", 1),
        (OURS, "memory-model2", 1),
        (KERAS_JAX, "memory-model1", 1),
        (KERAS_TENSORFLOW, "augment", 3),
    ],
)
def test_contenders_end_to_end(contender: str, workload: str, count: int, tmp_path: Path) -> None:
    """Slow: they compile without a cache."""
    (row,) = measured(replace(QUICK, workloads=(workload,), contenders=(contender,), out=tmp_path))
    assert row["error"] is None
    assert len(row["seconds"]) == count
    assert min(row["seconds"]) > 0
    assert row["first"] > 0
    assert row["device"]


def measured(options: BenchmarkOptions) -> list[dict[str, Any]]:
    benchmark.main(options)
    left = {path.name for path in options.out.iterdir()}
    assert left == {"benchmark.json", "benchmark.md", "logs", "prepared"}
    text = (options.out / "benchmark.json").read_text()
    assert str(options.out) not in text  # results can be shared without local paths
    results = json.loads(text)
    assert results["machine"]["versions"]["jax"]
    return results["turns"]
