"""Reads compiled programs: the text of XLA's HLO, an instruction a line."""

import re
from collections.abc import Iterator
from math import prod

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_NO_WORK = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}


def instructions(text: str, *, scan: bool, fused: bool = False) -> Iterator[str]:
    """The instructions of one step: of the largest loop's body if it is a `scan` of steps.

    Those of inner loops count once for each turn, if that is known; those inside fusions only if
    `fused`.
    """
    bodies = _computations(text)

    def turns(loop: str) -> int:
        condition = " ".join(bodies[re.findall(r"condition=%?([\w.-]+)", loop)[0]])
        limit = re.findall(r"known_trip_count\":\{\"n\":\"(\d+)", loop) or re.findall(
            r"s32\[\]\S* constant\((\d+)\).*compare.*direction=LT", condition
        )
        return int(limit[0]) if limit else 1

    def within(name: str) -> Iterator[str]:
        for it in bodies[name]:
            yield it
            kind = opcode(it)
            if kind in ("call", "while", "conditional", "async-start") or (
                fused and kind == "fusion"
            ):
                times = turns(it) if kind == "while" else 1
                for inner in re.findall(r"(?:calls|body|to_apply)=%?([\w.-]+)", it):
                    yield from list(within(inner)) * times

    loops = [name for it in bodies["ENTRY"] for name in re.findall(r"body=%?([\w.-]+)", it)]
    return within(max(loops, key=lambda loop: len(bodies[loop])) if scan else "ENTRY")


def _computations(text: str) -> dict[str, list[str]]:
    """The program's computations by name; the first to run is `ENTRY`."""
    bodies: dict[str, list[str]] = {}
    found: list[str] = []
    for it in text.splitlines():
        if it.endswith("{") and (header := re.match(r"(?:ENTRY )?%?([\w.-]+) ", it)):
            found = bodies.setdefault("ENTRY" if it.startswith("ENTRY") else header[1], [])
        elif it.startswith("  "):
            found.append(it.strip())
    return bodies


def opcode(instruction: str) -> str:
    """As `fusion` in `%a.1 = f32[2]{0} fusion(%b), kind=kLoop`."""
    found = re.search(r"[\])}] ([a-z][\w-]*)\(", instruction)
    return found[1] if found else ""


def is_work(instruction: str) -> bool:
    """Whether an instruction launches something; waiting for it does not."""
    kind = opcode(instruction)
    # Two names under which the TPU's compiler arranges buffers.
    buffers = "ConcatBitcast" in instruction or "AllocateBuffer" in instruction
    return not (kind in _NO_WORK or kind.endswith("-done") or buffers)


def bytes_of(instruction: str) -> int:
    """The size of an instruction's result."""
    result = instruction.partition(" = ")[2].split(f" {opcode(instruction)}(")[0]
    shapes = re.findall(r"(\w+)\[([\d,]*)\]", result)
    return sum(_BYTES[kind] * prod(map(int, filter(None, n.split(",")))) for kind, n in shapes)


def slices_of(instruction: str) -> int:
    """How many slices a gather collects; 0 for everything else."""
    sizes = re.search(r" gather\(.*slice_sizes=\{([\d,]*)\}", instruction)
    if not sizes:
        return 0
    found = re.search(r"= \w+\[([\d,]*)\]", instruction)
    assert found is not None
    count, slice_size = (prod(map(int, filter(None, n.split(",")))) for n in (found[1], sizes[1]))
    return count // slice_size
