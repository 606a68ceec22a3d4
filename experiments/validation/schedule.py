"""Does the scheduler do what vLLM did? Replays along the measured stamps, with vLLM's rules and with one of them switched off.

`admitted`: requests whose first step was formed within 2 ms of the engine's own stamp; `first token`, `last token`: within 1 ms of the
stamp. Writes results/schedule.tsv.
"""

from __future__ import annotations

import numpy as np
from cases import WITH_TABLES, Row, setup, write
from guided import admissions, follow

RULES = {"vLLM's rules": (True, True), "synchronous scheduling": (False, True), "no prefix caching": (True, False)}


def main() -> None:
    rows: list[Row] = []
    for case in WITH_TABLES:
        ready = setup(case)
        for name, (asynchronous, caching) in RULES.items():
            guided = follow(ready, asynchronous, caching)
            admitted, first, last = (np.abs(x) for x in admissions(ready, guided.done))
            parts = guided.intervals
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
                    "price off, %": 100 * (sum(part.price_s for part in parts) / sum(part.measured_s for part in parts) - 1),
                }
            )
    write("schedule", rows)


if __name__ == "__main__":
    main()
