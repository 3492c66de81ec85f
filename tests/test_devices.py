"""A GPU, where there is one, gives the history of a CPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import several_processes


@pytest.mark.slow
def test_a_gpu_gives_the_history_of_a_cpu(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no NVIDIA GPU here")
    histories = {}
    for platform in ("cpu", "cuda"):
        out = tmp_path / platform
        here = os.environ | {"JAX_PLATFORMS": platform, "JAX_NUM_CPU_DEVICES": "1"}
        subprocess.run([sys.executable, several_processes.__file__, out], env=here, check=True)
        histories[platform] = json.loads(out.read_text("utf-8"))
    assert histories["cpu"].keys() == set(several_processes.MODELS)
    for model, epochs in histories["cpu"].items():
        assert len({loss for loss, *_ in epochs}) == len(epochs), f"{model} learns nothing"
        np.testing.assert_allclose(histories["cuda"][model], epochs, rtol=1e-4, err_msg=model)
