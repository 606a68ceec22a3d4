"""The scheduler against vLLM's: replays along the measured stamps, with vLLM's rules and with one of them switched off.

`admitted`: requests whose first step was formed within 2 ms of vLLM's own stamp; `first token`, `last token`: within 1 ms of the stamp.
Writes results/schedule.tsv, and results/phases.tsv with the errors of the step times along the measured schedule.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from cases import WITH_TABLES, Row, Setup, setup, write
from guided import Guided, admissions, follow

PHASES = 8
RULES = {"vLLM's rules": (True, True), "synchronous scheduling": (False, True), "no prefix caching": (True, False)}


def phases(ready: Setup, guided: Guided) -> list[Row]:
    """For each eighth of the run, the predicted against the measured time of its steps."""
    steps = guided.done.steps
    end, timing, chunks = (steps.array(name) for name in ("end_s", "predicted_s", "chunks"))
    known = np.flatnonzero(steps.array("known"))
    at = [known[np.argmin(np.abs(end[known] - end[-1] * part / PHASES))] for part in range(PHASES + 1)]
    rows: list[Row] = []
    for before, last in pairwise(at):
        inside = slice(before + 1, last + 1)
        seconds = float(end[last] - end[before])
        numbers = {"steps": last - before, "with a chunk": int((chunks[inside] > 0).sum())}
        off = 100.0 * (float(timing[inside].sum()) / seconds - 1.0)
        rows.append({"run": ready.case.name, "until, s": float(end[last]), **numbers, "predicted off, %": off})
    return rows


def main() -> None:
    rows: list[Row] = []
    phase_rows: list[Row] = []
    for case in WITH_TABLES:
        ready = setup(case)
        for name, (asynchronous, caching) in RULES.items():
            guided = follow(ready, asynchronous, caching)
            admitted, first, last = (np.abs(x) for x in admissions(ready, guided.done))
            parts = guided.intervals
            if asynchronous and caching:
                phase_rows += phases(ready, guided)
            rows.append(
                {
                    "run": case.name,
                    "rules": name,
                    "requests": len(ready.run),
                    "steps": len(guided.done.steps.end_s),
                    "admitted": int((admitted < 2e-3).sum()),
                    "first token": int((first < 1e-3).sum()),
                    "last token": int((last < 1e-3).sum()),
                    "intervals": len(parts),
                    "as expected": sum(part.sure for part in parts),
                    "predicted off, %": 100 * (sum(part.predicted_s for part in parts) / sum(part.measured_s for part in parts) - 1),
                }
            )
    write("schedule", rows)
    print()
    write("phases", phase_rows)


if __name__ == "__main__":
    main()
