"""Errors of simjax on the measured runs, without any fit to them. Writes results/errors.tsv and results/parts.tsv.

errors: with the measured op tables, and with the profiles that simjax ships (fitted to the tables; on H100 pure roofline).
parts: changes in mean TTFT, TPOT and E2E, in percent, from the tables to the fitted profiles: all parts, and one part at a time in place
of its table.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from cases import ERRORS, MAPES, ON_H100, WITH_TABLES, Case, Row, config_of, errors, setup, write

from simjax.cluster.timing import ClusterTiming
from simjax.engine.host.lower import lower
from simjax.engine.simulate import simulate
from simjax.latency.step_time import StepTime
from simjax.validate import validate

MEANS = ("TTFT mean", "TPOT mean", "E2E mean")


def of(case: Case, tables: bool) -> Row:
    """One run of `simjax validate`."""
    run, done = validate(config_of(case, tables))
    requests = done.result.requests
    found = errors(run, requests.first_token_s, requests.finish_s)
    return {"run": case.name, "step times": "tables" if tables else "shipped profile", **{k: found[k] for k in (*ERRORS, *MAPES)}}


def parts_of(case: Case) -> list[Row]:
    """The change due to each part of the shipped profile."""
    tables, fitted = setup(case), setup(case, tables=False)
    measured, shipped = tables.timings.step_time, fitted.timings.step_time
    swaps: dict[str, StepTime] = {
        "attention": replace(measured, attention=shipped.attention, table=None),
        "matrices, norms, activations": replace(measured, tokens_s=shipped.tokens_s),
        "head and sampler": replace(measured, sequences_s=shipped.sequences_s),
        "all of them": replace(shipped, host_s=measured.host_s),
    }

    def means(timings: ClusterTiming) -> np.ndarray:
        lowered = lower(tables.cluster, timings, tables.run.workload())
        requests = simulate(lowered.shape, lowered.params).requests
        found = errors(tables.run, requests.first_token_s, requests.finish_s)
        return np.array([1.0 + 0.01 * found[name] for name in MEANS])

    plain = means(tables.timings)
    changes = {name: 100.0 * (means(replace(tables.timings, step_time=step_time)) / plain - 1.0) for name, step_time in swaps.items()}
    changes["and API and host times"] = 100.0 * (means(fitted.timings) / plain - 1.0)
    return [{"run": case.name, "fitted": name, **dict(zip(MEANS, change.tolist(), strict=True))} for name, change in changes.items()]


def main() -> None:
    write("errors", [of(case, True) for case in WITH_TABLES] + [of(case, False) for case in (*WITH_TABLES, *ON_H100)])
    print()
    write("parts", [row for case in WITH_TABLES for row in parts_of(case)])


if __name__ == "__main__":
    main()
