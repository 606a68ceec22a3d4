"""Where the errors come from: free runs with one cause after another taken away. Writes results/causes.tsv.

Every run starts from the arrivals alone. "none": no prefix caching. "caching": prefix caching as in vLLM. Both are what simjax simulates
(the replay, which is a program of its own, must agree with it to 1e-9 s, or this stops). "step times": each step is as late as such steps
were measured to be in this very run (medians by batch or by scheduled tokens), so that part explains, it does not predict. "startup": the
very first step waits as measured.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from cases import ERRORS, MAPES, ON_H100, WITH_TABLES, Row, Setup, chains, config_of, errors, pricer, setup, write
from clock import Late, Work
from guided import follow
from replay import Limits, Price, Replay, replay

from simjax.validate import validate


def late_pricer(timing: Price, late_s: Late, startup_s: float = 0.0) -> Price:
    """A price with the lateness of such steps, and once the startup, added."""
    wait = [startup_s]

    def late(work: Work) -> float:
        first = wait.pop() if wait else 0.0
        return timing(work) + first + late_s(sum(new for new, _ in work), sum(new > 1 for new, _ in work))

    return late


def free(ready: Setup, limits: Limits, timing: Price) -> Replay:
    """A run from the arrivals alone."""
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
    """The replay is simjax's simulation, or the study is void."""
    requests = validate(config_of(ready.case, tables, caching))[1].result.requests
    post_s = float(ready.timings.api_post_s[0])
    apart = max(np.abs(done.first_s + post_s - requests.first_token_s).max(), np.abs(done.last_s + post_s - requests.finish_s).max())
    if not apart < 1e-9:
        sys.exit(f"{ready.case.name}: the replay is {apart:.3g} s away from simjax")


def with_tables(ready: Setup) -> list[Row]:
    limits, timing = ready.limits, pricer(ready.timings.step_time)
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
    rows.append(row(ready, "step times", free(ready, limits, late_pricer(timing, late_s))))
    rows.append(row(ready, "caching, step times", free(ready, cached, late_pricer(timing, late_s))))
    whole = late_pricer(timing, late_s, ready.case.startup_s)
    rows.append(row(ready, "caching, step times, startup", free(ready, cached, whole)))
    synchronous = replace(limits, async_scheduling=False)
    rows.append(row(ready, "none, synchronous scheduling", free(ready, synchronous, timing)))
    whole = late_pricer(timing, late_s, ready.case.startup_s)
    rows.append(row(ready, "all three, synchronous scheduling", free(ready, replace(cached, async_scheduling=False), whole)))
    return rows


def repeated_prompts(ready: Setup) -> list[Row]:
    """Runs in which 100 prompts come again and again."""
    limits, timing = ready.limits, pricer(ready.timings.step_time)
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
