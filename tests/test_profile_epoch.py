"""The reduction of a trace, on events made by hand."""

from profile_epoch import Event, busy, table

MS = 1e6
EVENTS = [
    Event("conv", "jit_epoch", 0 * MS, 4 * MS),
    Event("copy", "jit_epoch", 3 * MS, 5 * MS),  # on another stream, at the same time
    Event("conv", "jit_epoch", 10 * MS, 13 * MS),
    Event("add", "jit_logits", 20 * MS, 21 * MS),
]


def test_what_runs_at_the_same_time_is_busy_once() -> None:
    assert busy(EVENTS) == 9
    assert busy(reversed(EVENTS)) == 9
    assert busy([]) == 0


def test_events_are_summed_by_name_and_by_program() -> None:
    assert table(EVENTS, "name", steps=2)[2:] == [
        "| conv | 2 | 1.0 | 7.0 | 70% |",
        "| copy | 1 | 0.5 | 2.0 | 20% |",
        "| add | 1 | 0.5 | 1.0 | 10% |",
    ]
    assert table(EVENTS, "program", steps=2) == [
        "| program | launched | ÷ steps | ms | share |",
        "|---|---|---|---|---|",
        "| jit_epoch | 3 | 1.5 | 9.0 | 90% |",
        "| jit_logits | 1 | 0.5 | 1.0 | 10% |",
    ]
    many = [Event(f"kernel{n}", "jit_epoch", n, n + 1 + n / 10) for n in range(20)]
    assert len(table(many, "name", steps=1)) == 2 + 8
