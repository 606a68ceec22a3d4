"""The fewest instances that hold a rate, of many designs at once.

A search over whole numbers, from below: it begins where the saturated throughput of one instance says, goes up in growing steps until a
number passes, and then halves the gap to the highest number that did not. All designs try a number of their own in every round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simjax.config.capacity import SearchConfig
from simjax.errors import SimjaxError
from simjax.explore.options import Options
from simjax.explore.points import Points
from simjax.metrics.slo import NO_LIMITS
from simjax.sizing.capacity import Progress
from simjax.sizing.loads import Load, loads_of
from simjax.sizing.metrics import SATURATED
from simjax.sizing.rounds import Probe, Rounds
from simjax.sizing.verdict import Outcome, Verdict, verdict

INSTANCES = "cluster.instances"


@dataclass
class CountSearch:
    """The search of one design.

    Attributes:
        most: the greatest number that is tried.
        following: the number to try next; None when the search has ended.
        failed, passed: the greatest number that failed, and the least above it that passed; None before there is one.
    """

    most: int
    following: int | None
    failed: int = 0
    passed: int | None = None

    def tell(self, passes: bool) -> None:
        """Go on from what came of the number that was tried."""
        assert self.following is not None
        if passes:
            self.passed = self.following
        else:
            self.failed = self.following
        if self.passed is None:
            higher = min(max(self.failed + 1, math.ceil(1.25 * self.failed)), self.most)
            self.following = higher if self.failed < self.most else None
        elif self.passed - self.failed <= 1:
            self.following = None
        else:  # the first guess is a close one from below: look right under a number that passes before halving
            near = self.passed - 1 if self.failed == 0 else (self.passed + self.failed) // 2
            self.following = near


@dataclass(frozen=True)
class Fleet:
    """The fewest instances of a design that hold a rate.

    Attributes:
        point: number of the design.
        design: values of the swept keys.
        rate_per_s: the rate, requests/s (of sessions: starts/s).
        instances: fewest instances that pass; None if no number does.
        gpus: their devices.
        attained: share of the measured requests that met all limits, mean over the workloads.
        alone: share of the workloads on each of which alone the number passes: how sure it is that one instance less is too few or that
            this number is enough.
        limited_by: why one instance less does not pass, or why there is no number.
        valid: whether the design could be simulated.
        seeds: number of workloads.
        tried: verdicts by number of instances.
    """

    point: int
    design: Mapping[str, Any]
    rate_per_s: float
    instances: int | None = None
    gpus: int | None = None
    attained: float | None = None
    alone: float | None = None
    limited_by: str = ""
    valid: bool = True
    seeds: int = 0
    tried: Mapping[int, Verdict] = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The record as it goes into capacity.json."""
        names = ("point", "rate_per_s", "instances", "gpus", "attained", "alone", "limited_by", "valid", "seeds")
        tried = [
            {"instances": count, "passes": x.passes, "slo_attainment": x.attained, "steady": x.steady} for count, x in self.tried.items()
        ]
        return {"design": dict(self.design), **{name: getattr(self, name) for name in names}, "tried": tried}


@dataclass(frozen=True)
class Fleets:
    """The fewest instances of many designs; attributes as of `simjax.sizing.record.Capacities`."""

    keys: tuple[str, ...]
    designs: tuple[Fleet, ...]
    runs: int
    rounds: int
    warnings: tuple[str, ...]

    @property
    def ranked(self) -> list[Fleet]:
        """The designs that hold the rate, those with the fewest devices first."""
        return sorted((x for x in self.designs if x.instances is not None), key=lambda x: (x.gpus or 0, x.point))


def fewest_instances(base: Sequence[str], points: Points, search: SearchConfig, *, on_progress: Progress | None = None) -> Fleets:
    """The fewest instances of each design that hold `search.rate`.

    Args:
        base: overrides that all designs share, in Hydra's grammar.
        points: values of the swept keys of each design.
        search: options of the search.
        on_progress: as for `simjax.capacity`.

    Raises:
        SimjaxError: the number of instances is given, the base is wrong, or no design can be simulated.
    """
    assert search.rate is not None
    given = [x for x in (*base, *(f"{key}=..." for key in points.keys)) if x.partition("=")[0].lstrip("+") == INSTANCES]
    if given:
        raise SimjaxError(f"{given[0]} has no effect with capacity.rate, which finds the number; leave one of them out")
    cluster = Options(base, points.keys).config({}).cluster
    if cluster.prefill.instances or cluster.decode.instances or any("instances" in key and key != INSTANCES for key in points.keys):
        raise SimjaxError(
            "capacity.rate finds the number of instances that run both phases; with prefill and decode instances leave it out, sweep "
            "cluster.prefill.instances and cluster.decode.instances, and see which designs hold the rate"
        )
    report = on_progress or (lambda done, total, runs: None)
    warnings: dict[str, None] = {}
    runs = rounds = 0

    def simulate(counts: Mapping[int, int], seeds: int) -> tuple[dict[int, tuple[Load, ...]], dict[int, str], Rounds | None]:
        """Loads of some designs with these numbers of instances."""
        rows = [(*points.rows[point], count) for point, count in counts.items()]
        own = [x for x in vars(search)]
        fewer = SearchConfig(**{**{name: getattr(search, name) for name in own}, "seeds": seeds})
        loads = loads_of(base, Points((*points.keys, INSTANCES), tuple(rows)), range(len(rows)), fewer)
        warnings.update(dict.fromkeys(loads.warnings))
        at = list(counts)
        of = {at[i]: found for i, found in loads.of.items()}
        return of, {at[i]: reason for i, reason in loads.invalid.items()}, Rounds(of) if of else None

    loads, invalid, one = simulate(dict.fromkeys(range(len(points)), 1), 1)
    if one is None:
        first = min(invalid)
        raise SimjaxError(f"none of the {len(points):,} designs can be simulated; design {first}: {invalid[first]}")
    bursts = one.run([Probe(point, 0, None) for point in loads])
    runs, rounds = one.runs, 1
    searches: dict[int, CountSearch] = {}
    for (point, _, _), row in bursts.items():
        saturated = row.get(SATURATED)
        if row["status"] == "error" or not saturated:
            invalid[point] = row["reason"] or "no throughput at saturation: too few requests finished; raise capacity.num_requests"
            continue
        each = saturated * loads[point][0].starts / loads[point][0].requests
        searches[point] = CountSearch(search.max_instances, min(max(math.ceil(search.rate / each), 1), search.max_instances))
    tried: dict[int, dict[int, tuple[Verdict, float, int]]] = {point: {} for point in searches}
    seeds: dict[int, int] = {}
    while asked := {point: x.following for point, x in searches.items() if x.following is not None and point not in invalid}:
        report(len(searches) - len(asked), len(searches), runs)
        loads, wrong, some = simulate(asked, search.seeds)
        invalid |= wrong
        found = {} if some is None else some.run([Probe(p, s, search.rate) for p, own in loads.items() for s in range(len(own))])
        runs, rounds = runs + len(found), rounds + 1
        for point, own in loads.items():
            rows = [found[Probe(point, s, search.rate)] for s in range(len(own))]
            if failed := next((row["reason"] for row in rows if row["status"] == "error"), None):
                invalid[point] = failed
                continue
            slo = own[0].design.slo or NO_LIMITS
            outcomes = [Outcome.of(row, slo) for row in rows]
            pooled = verdict(outcomes, search.attainment, slo)
            alone = sum(verdict([x], search.attainment, slo).passes for x in outcomes) / len(outcomes)
            tried[point][asked[point]] = pooled, alone, own[0].design.gpus
            seeds[point] = len(own)
            searches[point].tell(pooled.passes)
    report(len(searches), len(searches), runs)
    designs = []
    for point, row in enumerate(points.rows):
        values = dict(zip(points.keys, row, strict=True))
        if point in invalid:
            designs.append(Fleet(point, values, search.rate, limited_by=invalid[point], valid=False))
            continue
        count, known = searches[point].passed, tried[point]
        about = {"seeds": seeds[point], "tried": {n: x[0] for n, x in sorted(known.items())}}
        if count is None:
            reason = f"not even {max(known)} instances: {known[max(known)][0].reason}"
            designs.append(Fleet(point, values, search.rate, limited_by=reason, **about))
            continue
        pooled, alone, gpus = known[count]
        fewer = f"{count - 1} fewer" if count - 1 not in known else f"{count - 1}: {known[count - 1][0].reason}"
        designs.append(Fleet(point, values, search.rate, count, gpus, pooled.attained, alone, fewer if count > 1 else "", **about))
    return Fleets(points.keys, tuple(designs), runs, rounds, tuple(warnings))
