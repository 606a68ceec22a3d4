"""Effect of errors of step times on the statistics: change of each, in percent, when all steps change. Writes results/sensitivity.tsv.

The last row of a run: standard deviation, in percent, when every step gets a random error of 0.5 % of its own (12 draws).
"""

from __future__ import annotations

import numpy as np
from cases import ERRORS, WITH_TABLES, Row, Setup, errors, setup, timing_of, write
from clock import Work
from replay import Timing, replay

CHANGES = (
    *((f"{percent:+g} %", 1.0 + 0.01 * percent, 0.0) for percent in (-1.0, -0.5, 0.5, 1.0, 2.0)),
    *((f"+{1e3 * step_s:g} ms a step", 1.0, step_s) for step_s in (1e-4, 2e-4, 5e-4)),
)
DRAWS, NOISE = 12, 0.005


def statistics(ready: Setup, timing: Timing) -> np.ndarray:
    """Each statistic divided by the measured one."""
    run = ready.run
    done = replay(ready.limits, timing, run.arrival_s, (run.prompt_tokens, run.output_tokens))
    found = errors(run, done.first_s, done.last_s)
    return np.array([1.0 + 0.01 * found[name] for name in ERRORS])


def noisy(timing: Timing, rng: np.random.Generator) -> Timing:
    return lambda work: timing(work) * (1.0 + NOISE * rng.standard_normal())


def changed(timing: Timing, factor: float, more_s: float) -> Timing:
    def of(work: Work) -> float:
        return factor * timing(work) + more_s

    return of


def main() -> None:
    rows: list[Row] = []
    for case in WITH_TABLES:
        ready = setup(case)
        timing = timing_of(ready.timings.step_time)
        plain = statistics(ready, timing)
        for name, factor, more_s in CHANGES:
            moved = 100.0 * (statistics(ready, changed(timing, factor, more_s)) / plain - 1.0)
            rows.append({"run": case.name, "steps": name, **dict(zip(ERRORS, moved.tolist(), strict=True))})
        rng = np.random.default_rng(0)
        spread = 100.0 * np.std([statistics(ready, noisy(timing, rng)) / plain for _ in range(DRAWS)], axis=0)
        rows.append({"run": case.name, "steps": "0.5 % at random (sd)", **dict(zip(ERRORS, spread.tolist(), strict=True))})
    write("sensitivity", rows)


if __name__ == "__main__":
    main()
