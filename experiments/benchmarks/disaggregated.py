"""Prefill and decode instances beside as many that run both phases: ticks, kernels, and designs a second.

The same 300 requests, with lengths of a chat, at a load that both clusters keep up with. Designs differ in the time and the sharing of
their transfers. Writes results/disaggregated.tsv.

usage: python disaggregated.py [--repeats N] [--designs N]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import batches
import common
import hlo
import jax

from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.spec import ClusterSpec
from simjax.deployment import Role
from simjax.engine.host.lower import Lowered

REQUESTS, RATE = 300, 12.0
PAIRS = (1, 2, 4)  # prefill instances, and as many decode instances


def split(pairs: int, **rules: Any) -> ClusterSpec:
    """As many prefill as decode instances on H100s."""
    (one,) = common.h100_cluster().instances
    instances = [replace(one, role=role) for role in (Role.PREFILL, Role.DECODE) for _ in range(pairs)]
    return ClusterSpec(tuple(instances), "least_loaded", disaggregation=Disaggregation(**rules))


def designs(pairs: int, disaggregated: bool, count: int) -> list[Lowered]:
    """Designs of one kind, without a log."""
    chat = common.synthetic(REQUESTS, RATE)
    if not disaggregated:
        return [common.lowered(common.h100_cluster(2 * pairs, "least_loaded"), chat, log=False)] * count
    rules = [{"setup_s": 2e-4 * (1 + k % 8), "sharing": ("fair", "fifo")[k % 2]} for k in range(count)]
    return [common.lowered(split(pairs, **rule), chat, log=False) for rule in rules]


def main() -> None:
    parser = common.arguments(__doc__, 3)
    parser.add_argument("--designs", type=int, default=64, help="designs side by side")
    options = parser.parse_args()
    about = common.facts()
    kinds = [(pairs, disaggregated) for pairs in PAIRS for disaggregated in (False, True)]
    with jax.enable_x64(True):
        programs: dict[Any, Any] = {kind: batches.compile_batch(designs(*kind, options.designs)) for kind in kinds}
        ticks = {kind: int(program().ticks.max()) for kind, program in programs.items()}
        times = common.interleaved(programs, options.repeats)
    rows = []
    for pairs, disaggregated in kinds:
        kind, whole = (pairs, disaggregated), (pairs, False)
        rows.append(
            {
                "cluster": f"{pairs} prefill, {pairs} decode" if disaggregated else f"{2 * pairs} instances",
                "kernels": hlo.loop_kernels(programs[kind].compiled.as_text()).total,
                "ticks": ticks[kind],
                "more_ticks_per_request_and_leg": (ticks[kind] - ticks[whole]) / (2 * REQUESTS) if disaggregated else None,
                "designs_per_s": options.designs / times[kind].best,
                "x_aggregated": times[kind].best / times[whole].best,
            }
        )
    common.write_table("disaggregated", rows, about)


if __name__ == "__main__":
    main()
