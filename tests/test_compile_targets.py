"""Training programs compile for GPUs and TPUs that this machine does not have."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from compile_targets import Compiled, compiled, write
from compilers.devices import TARGETS, mesh_of, missing
from compilers.hlo import bytes_of, instructions, is_work, opcode, slices_of
from jax.sharding import NamedSharding, PartitionSpec

from catdog_jax.errors import InputError
from catdog_jax.runs.recipes import RECIPES
from catdog_jax.training.mesh import jit

PROGRAM = """HloModule program
%inner (a: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %g = f32[5,7,3]{2,1,0} gather(%x, %i), offset_dims={2}, slice_sizes={1,1,3}
}
%turn (t: (s32[])) -> (s32[]) {
  %f = f32[5,7,3]{2,1,0} fusion(%a), kind=kLoop, calls=%inner
}
%until (t: (s32[])) -> pred[] {
  %c = s32[]{:T(128)} constant(20)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%body (t: (s32[])) -> (s32[]) {
  %p = (s32[]) parameter(0)
  %w = (s32[]) while(%p), condition=%until, body=%turn
  %r = (f32[2,3]{1,0}, bf16[4]{0:T(8,128)(2,1)S(1)}) all-reduce-start(%q)
  %d = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce-done(%r)
}
ENTRY %main (p: s32[]) -> s32[] {
  %l = (s32[]) while(%p), condition=%until, body=%body
}
"""


def test_the_text_of_a_program_is_counted_by_steps() -> None:
    step = list(instructions(PROGRAM, scan=True))
    assert [opcode(it) for it in step if is_work(it)] == ["fusion"] * 20 + ["all-reduce-start"]
    assert bytes_of(next(it for it in step if "all-reduce-start" in it)) == 4 * 6 + 2 * 4
    fused = instructions(PROGRAM, scan=True, fused=True)
    assert sum(map(slices_of, fused)) == 20 * 35


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(InputError, match="unknown target 'h900'; choose one of: h100"):
        mesh_of("h900")


# Slow: compilers take some seconds each.
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_small_model_compiles(target: str, tmp_path: Path) -> None:
    """In bfloat16: in float32, v5e's compiler takes minutes for the first convolution."""
    if why := missing(target):
        pytest.skip(why)
    mesh = mesh_of(target)
    experiment = replace(RECIPES["model3"], image_size=32, dtype="bfloat16")
    row = compiled(experiment, mesh, target, "epoch", 64)
    assert (row.devices, row.collectives > 0) == (mesh.size, mesh.size > 1)
    assert 0 < row.temporary_bytes < row.peak_bytes < 1e8
    assert row.operations > 20
    # Every pixel of a rotated photo takes four others; TPUs gather whole photos and labels alone.
    rotated = 4 * 32 * 32 * 32 // mesh.size
    assert (row.gathered > rotated) == target.startswith("h100")
    write([row], tmp_path)
    write([replace(row, program="step")], tmp_path)
    kept = json.loads((tmp_path / "compile_targets.json").read_text("utf-8"))["rows"]
    assert [Compiled(**found).program for found in kept] == ["epoch", "step"]


@pytest.mark.slow
def test_a_gpu_accepts_a_program_that_is_not_tuned() -> None:
    if why := missing("h100"):
        pytest.skip(why)
    mesh = mesh_of("h100")
    everywhere = NamedSharding(mesh, PartitionSpec())
    numbers = jax.ShapeDtypeStruct((8, 8), np.float32, sharding=everywhere)
    untuned: Any = jit(tuned=False)(lambda a: a @ a)
    with jax.set_mesh(mesh):
        assert "dot" in untuned.lower(numbers).compile().as_text()
