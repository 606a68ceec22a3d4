"""The overhead of prefix caching: kernels, compile time and time of a tick against the size of the tree of shared prefixes.

Every workload runs with caching off and on, in turn. `nodes` is the number of prefix nodes on the device, `path` the largest number in one
prompt. Times of runs are what a user waits for; hits and evictions change the ticks of a run, so `x_tick` compares times per tick. Writes
results/prefix.tsv.

usage: python prefix.py [--repeats N]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import common
import hlo
import jax

from simjax.cluster.spec import ClusterSpec
from simjax.config.compose import compose_config, typed
from simjax.engine.host.lower import Lowered
from simjax.workload import LengthConfig, PrefixConfig, WorkloadConfig, build_workload
from simjax.workload.workload import Workload

GROUPS = (1, 64, 1024, 8192)
REQUESTS = 8192
FEW_BLOCKS = 4096  # of 16 tokens: some thirty requests, and little to keep


def limited(cluster: ClusterSpec, **limits: Any) -> ClusterSpec:
    """The cluster with other limits of its instances."""
    return replace(cluster, instances=tuple(replace(each, limits=replace(each.limits, **limits)) for each in cluster.instances))


def applications(groups: int) -> Workload:
    """Requests that begin with one of `groups` system prompts of 1,024 tokens, all equally popular."""
    prompt = LengthConfig(dist="lognormal", mean=1900, cv=0.4, min=1040, max=5000)
    output = LengthConfig(dist="lognormal", mean=650, cv=0.3, min=1, max=1024)
    shared = PrefixConfig(groups=groups, tokens=1024)
    return build_workload(WorkloadConfig(kind="poisson", rate=8.0, num_requests=REQUESTS, prompt=prompt, output=output, prefix=shared))


def conversations(sessions: int) -> Workload:
    """Sessions with a mean of five calls, as in conf/workload/sessions.yaml: every call adds prefix nodes to the tree."""
    config = compose_config("run", ["workload=sessions", "workload.rate=2", f"workload.num_sessions={sessions}"])
    return build_workload(typed(config).workload)


def cases() -> dict[str, tuple[Workload, dict[str, Any]]]:
    """Workloads and limits, from a tree of one node to one with a node per request."""
    found: dict[str, tuple[Workload, dict[str, Any]]] = {f"{groups} system prompts": (applications(groups), {}) for groups in GROUPS}
    found["64 system prompts, few blocks"] = (applications(64), {"num_gpu_blocks_override": FEW_BLOCKS})
    found["300 sessions"] = (conversations(300), {})
    return found


def row(what: str, low: Lowered, program: common.Program, ticks: int, seconds: float) -> dict[str, Any]:
    kernels = hlo.loop_kernels(program.advance.as_text())
    caching = low.shape.prefix_nodes > 0
    return {
        "what": what,
        "caching": "on" if caching else "off",
        "requests": low.shape.requests,
        "nodes": low.shape.prefix_nodes if caching else None,
        "path": low.shape.prefix_path if caching else None,
        "kernels": kernels.total,
        "compile_s": program.compile_s + program.trace_s,
        "ticks": ticks,
        "run_s": seconds,
        "us_per_tick": seconds * 1e6 / ticks,
    }


def main() -> None:
    options = common.arguments(__doc__, 3).parse_args()
    about = common.facts()
    rows: list[dict[str, Any]] = []
    with jax.enable_x64(True):
        for what, (workload, limits) in cases().items():
            clusters = {on: limited(common.h100_cluster(), enable_prefix_caching=on, **limits) for on in (False, True)}
            lows = {str(on): common.lowered(cluster, workload, log=False) for on, cluster in clusters.items()}
            programs = {on: common.compile_program(low.shape, low.params) for on, low in lows.items()}
            ticks = {on: int(program().ticks) for on, program in programs.items()}
            times = common.interleaved(dict(programs), options.repeats)
            pair = [row(what, lows[on], programs[on], ticks[on], times[on].best) for on in programs]
            pair[1] |= {f"x_{name}": pair[1][of] / pair[0][of] for name, of in (("tick", "us_per_tick"), ("run", "run_s"))}
            rows += pair
            print(f"{what}: done", flush=True)
    common.write_table("prefix", rows, about)


if __name__ == "__main__":
    main()
