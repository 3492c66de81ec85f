"""The compilers for GPUs and TPUs, where their wheels are: `pip install -e ".[targets]"`."""

import subprocess
import sys
from pathlib import Path

import pytest
from compilers.devices import missing

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.mark.slow
@pytest.mark.parametrize(("target", "devices"), [("h100", 1), ("h100x8", 8), ("v5ex4", 4)])
def test_a_step_of_model_3_compiles(target: str, devices: int, tmp_path: Path) -> None:
    if why := missing(target):
        pytest.skip(why)
    words = "--models", "model3", "--targets", target, "--dtypes", "float32", "--programs", "step"
    script = [sys.executable, str(EXPERIMENTS / "compile_targets.py"), *words]
    said = subprocess.check_output([*script, "--out", str(tmp_path)], text=True)
    (line,) = [line for line in said.splitlines() if line.startswith("| model3 | step, float32 |")]
    assert ("MB)" in line) == (devices > 1), "gradients are summed over devices, and only then"
    assert (tmp_path / "compile_targets.md").is_file()


def test_a_target_without_its_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compilers.devices.find_spec", lambda _: None)
    assert missing("v5e") == "no compiler for v5e: pip install -e '.[targets]'"
