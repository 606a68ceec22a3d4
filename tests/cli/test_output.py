"""Progress where stderr is a log, not a terminal."""

import pytest

from simjax.cli import output


def test_a_log_gets_a_line_once_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: clock[0])
    with output.moving_bar("compiling") as move:
        for clock[0], changes in (
            (130.0, {"description": "fitting", "completed": 1, "total": 40, "count": "loss 9.5"}),
            (161.0, {"completed": 2}),
            (170.0, {"completed": 3}),
            (230.0, {"description": "simulating", "completed": 4, "count": "4 of 40 draws"}),
            (300.0, {"total": None, "count": ""}),
        ):
            move(**changes)
    assert capsys.readouterr().err.splitlines() == [
        "fitting: 2 of 40, loss 9.5, after 61 s",
        "simulating: 4 of 40 draws, after 130 s",
        "simulating, after 200 s",
    ]
