"""Causes of the errors: unguided runs with one cause after another removed. Writes results/causes.tsv.

Every run starts from the arrivals alone. "none": no prefix caching. "caching": prefix caching as in vLLM. Both are what simjax simulates
(the replay, which is a separate program, must agree with it to 1e-9 s, or the script exits). "step times": each step is as late as similar
steps were measured to be in the same run (medians by number of requests or scheduled tokens), which is an explanation, not a prediction.
"startup": the very first step waits as measured.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from cases import ERRORS, MAPES, ON_H100, WITH_TABLES, Row, Setup, chains, config_of, errors, setup, timing_of, write
from clock import Late, Work
from guided import follow
from replay import Limits, Replay, Timing, replay

from simjax.validate import validate


def late_timing(timing: Timing, late_s: Late, startup_s: float = 0.0) -> Timing:
    """A step time plus the lateness of similar steps and, for the first step, the startup."""
    wait = [startup_s]

    def late(work: Work) -> float:
        first = wait.pop() if wait else 0.0
        return timing(work) + first + late_s(sum(new for new, _ in work), sum(new > 1 for new, _ in work))

    return late


def free(ready: Setup, limits: Limits, timing: Timing) -> Replay:
    """A run that starts from the arrivals alone."""
    run = ready.run
    queued_s = run.arrival_s + float(ready.timings.api_pre_s[0])
    known = chains(ready.case, run) if limits.prefix_caching != "off" else None
    return replay(limits, timing, queued_s, (run.prompt_tokens, run.output_tokens), known)


def row(ready: Setup, name: str, done: Replay) -> Row:
    post_s = float(ready.timings.api_post_s[0])
    found = errors(ready.run, done.first_s + post_s, done.last_s + post_s)
    counts: Row = {"preempted": int(done.preemptions.sum()), "recomputed": done.recomputed_tokens}
    hits = 100.0 * done.hit_tokens.sum() / ready.run.prompt_tokens.sum()
    return {"run": ready.case.name, "causes removed": name, **{k: found[k] for k in (*ERRORS, *MAPES)}, **counts, "hits, %": float(hits)}


def check(ready: Setup, done: Replay, tables: bool, caching: bool) -> None:
    """Check that the replay agrees with simjax's simulation, on which the study relies."""
    requests = validate(config_of(ready.case, tables, caching))[1].result.requests
    post_s = float(ready.timings.api_post_s[0])
    apart = max(np.abs(done.first_s + post_s - requests.first_token_s).max(), np.abs(done.last_s + post_s - requests.finish_s).max())
    if not apart < 1e-9:
        sys.exit(f"{ready.case.name}: the replay is {apart:.3g} s away from simjax")


def with_tables(ready: Setup) -> list[Row]:
    limits, timing = ready.limits, timing_of(ready.timings.step_time)
    cached = replace(limits, prefix_caching="on")
    plain = free(ready, limits, timing)
    check(ready, plain, tables=True, caching=False)
    rows = [row(ready, "none", plain)]
    if plain.preemptions.any():
        rows += [
            row(ready, f"caching, {name}", free(ready, replace(limits, prefix_caching=which), timing))
            for name, which in (("first admission only", "first"), ("after preemption only", "again"))
        ]
    late_s = follow(ready).late_s
    found = free(ready, cached, timing)
    check(ready, found, tables=True, caching=True)
    rows.append(row(ready, "caching", found))
    rows.append(row(ready, "step times", free(ready, limits, late_timing(timing, late_s))))
    rows.append(row(ready, "caching, step times", free(ready, cached, late_timing(timing, late_s))))
    whole = late_timing(timing, late_s, ready.case.startup_s)
    rows.append(row(ready, "caching, step times, startup", free(ready, cached, whole)))
    synchronous = replace(limits, async_scheduling=False)
    rows.append(row(ready, "none, synchronous scheduling", free(ready, synchronous, timing)))
    whole = late_timing(timing, late_s, ready.case.startup_s)
    rows.append(row(ready, "all three, synchronous scheduling", free(ready, replace(cached, async_scheduling=False), whole)))
    return rows


def repeated_prompts(ready: Setup) -> list[Row]:
    """Runs in which 100 prompts are repeated."""
    limits, timing = ready.limits, timing_of(ready.timings.step_time)
    plain = free(ready, limits, timing)
    check(ready, plain, tables=False, caching=False)
    found = free(ready, replace(limits, prefix_caching="on"), timing)
    check(ready, found, tables=False, caching=True)
    return [row(ready, "none", plain), row(ready, "caching", found)]


def main() -> None:
    rows = [r for case in WITH_TABLES for r in with_tables(setup(case))]
    for case in ON_H100:
        ready = setup(case, tables=False)
        if ready.run.prefix_key is not None:
            rows += repeated_prompts(ready)
    write("causes", rows)


if __name__ == "__main__":
    main()
