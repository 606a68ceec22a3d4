"""Releases of vLLM: the one place that says what a release changes of what is simulated, and of what is not yet.

Sources: vLLM's `config/*.py`, `envs.py`, `v1/core` and `v1/engine` at 0.15.1, 0.19.0, 0.23.0, 0.28.0 and 0.33.0. Where a change lies
between two of these, the later one is given unless the release that brought it is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from simjax.errors import SimjaxError, closest

Minor = tuple[int, int]
DEFAULT = "vllm-0.19"
"""The release whose rules hold where nothing else is said."""
KNOWN = ("vllm-0.15", DEFAULT, "vllm-0.23", "vllm-0.28", "vllm-0.33")
"""The releases that the table was read from."""
_FIRST: Minor = (0, 0)


@dataclass(frozen=True)
class Rule:
    """A default or a rule that releases differ in.

    Attributes:
        name: flag of `simjax.cluster.instance.InstanceLimits`; of rules that are not simulated yet, words.
        values: first release with each value, in order.
    """

    name: str
    values: tuple[tuple[Minor, Any], ...]

    def at(self, release: Minor) -> Any:
        """The value in a release."""
        return [value for since, value in self.values if since <= release][-1]


RULES = (
    Rule("gpu_memory_utilization", ((_FIRST, 0.9), ((0, 20), 0.92))),
    Rule("async_scheduling", ((_FIRST, False), ((0, 14), True))),
    Rule("reserve_full_isl", ((_FIRST, False), ((0, 19), True))),
    Rule("reserve_kv_loads", ((_FIRST, False), ((0, 23), True))),
    Rule("dp_sync_interval", ((_FIRST, 32), ((0, 33), 16))),
    Rule("dp_syncs_first", ((_FIRST, False), ((0, 33), True))),
    Rule("long_prefill_alone", ((_FIRST, False), ((0, 33), True))),
    Rule("reuse_nameless_first", ((_FIRST, False), ((0, 28), True))),
    Rule("preempt_self_goes_on", ((_FIRST, False), ((0, 33), True))),
    Rule("preempt_leaves_out", ((_FIRST, True), ((0, 28), False))),
)
"""Defaults of flags that differ; an option that sets the flag wins. For the rules `reserve_kv_loads`, `dp_syncs_first`,
`long_prefill_alone`, `reuse_nameless_first`, `preempt_self_goes_on` and `preempt_leaves_out` vLLM has no flag, and for `dp_sync_interval`
only from 0.33 on.

`dp_sync_interval`, `dp_syncs_first`: steps between two all-reduces by which data-parallel ranks of a mixture of experts learn whether any
of them has requests left, and whether there is one after the first step of a wave (vLLM's `_has_global_unfinished_reqs`).

`reserve_kv_loads`: a request whose KV cache comes from a prefill instance reserves its blocks only if, of the free ones, those are left
that running requests in the middle of their prompts, or of a recomputation, still need for all of it (vLLM's
`_inflight_prefill_reserved_blocks`). From 0.28 at the latest on that is in addition to `watermark`, a flag for all admissions beside a
running request that is 0 by default, and so the same in all releases.

`long_prefill_alone`: if no more than one request is running or waiting when a step is formed, requests whose KV cache is on its way and
those with their last token in flight included, `long_prefill_token_threshold` does not hold in that step.
`long_prefill_token_threshold_adaptive`, which is off by default, is not simulated.

`reuse_nameless_first`: of the blocks that a request frees, those without a name in the prefix cache go to the head of the queue of free
blocks, to be used again before anything that can still be found is lost (vLLM's `free_blocks`); before, all went to its tail.

`preempt_self_goes_on` and `preempt_leaves_out`: rules of `scheduling_policy=priority`, whose victims may stand anywhere among the running
requests. After a request has preempted itself, those after it still get their tokens. And a victim that had none in the step, because its
last token is in flight, makes vLLM's loop leave out the request after the one that asked for its blocks (a mistake, mended in 0.28).
"""

_GIB = 2**30
_WIDE, _WIDEST = 70, 160  # GiB of device memory from which vLLM's server takes more at once

BALANCER = (
    Rule("weighs_in_flight", ((_FIRST, False), ((0, 28), True))),
    Rule("publishes_dense", ((_FIRST, False), ((0, 28), True))),
)
"""Rules of the internal load balancer of data-parallel ranks (`simjax.cluster.balancer`), for which vLLM has no flags.

`weighs_in_flight`: the rank of the lowest max(API servers * requests in flight from this one, waiting + running) + 6 waiting * (KV use
above one half); before, of the lowest 4 waiting + running. `publishes_dense`: ranks of dense models report their requests to the API
servers.
"""

DRAFTING = (
    Rule("pads", ((_FIRST, False), ((0, 28), True))),
    Rule("names_next_token", ((_FIRST, False), ((0, 33), True))),
)
"""Rules of speculative decoding (`simjax.speculation.methods.Speculation`), for which vLLM has no flags.

`pads`: a waiting request that needs a single token, as its prompt is one or all but one are cached, gets 1 + K like those that decode, with
drafts that are never right, unless a prompt is in the step. `names_next_token`: EAGLE and MTP compute the keys of a place from the token
after it, so the name of a block in the prefix cache covers that one; before, the last of the blocks that a request found was left out.
"""

GONE = {"p2p_nccl": (0, 28)}
"""Connectors, by the release that no longer has them."""

NOT_SIMULATED = (
    Rule(
        "batches in flight: without / with asynchronous scheduling / with it and pipeline parallelism",
        ((_FIRST, "pp / 2 / pp"), ((0, 23), "pp / 2 / pp + 1")),
    ),
    Rule("calls between two decode steps of a request, with pipeline parallelism", ((_FIRST, "none"), ((0, 23), "pp"))),
    Rule("model runner V2 by default", ((_FIRST, "no"), ((0, 23), "some dense models"), ((0, 28), "by model"), ((0, 33), "yes"))),
    Rule(
        "lookups that vLLM's metric of prefix-cache queries counts",
        ((_FIRST, "every try to admit the first waiting request"), ((0, 28), "those of admissions")),
    ),
    Rule(
        "names of blocks that accepted drafts fill, without asynchronous scheduling",
        ((_FIRST, "when the next step is formed"), ((0, 33), "when the drafts are verified")),
    ),
    Rule("failure of a KV load", ((_FIRST, "recomputed"), ((0, 19), "the request fails"))),
    Rule("hold of KV blocks on a prefill instance that nobody reads", ((_FIRST, "480 s"), ((0, 23), "lease of 30 s with heartbeats"))),
    Rule("rebalancing of experts", ((_FIRST, "synchronous"), ((0, 23), "asynchronous"))),
    Rule(
        "MoE layers of data-parallel ranks", ((_FIRST, "loop of 256 tokens in each layer"), ((0, 23), "token budget of 256 (low latency)"))
    ),
    Rule("cascade attention by default", ((_FIRST, "on"), ((0, 19), "off"))),
)
"""What is known to differ and is not simulated yet: every release acts as 0.19 does, and as 0.33 with pipeline parallelism and in the
names of blocks that accepted drafts fill."""


def minor_of(release: str) -> Minor:
    """The first two numbers of a release such as "vllm-0.19", "0.23.0" or "v0.15.1".

    Raises:
        SimjaxError: there are none.
    """
    found = re.fullmatch(r"(?:vllm-|v)?(\d+)\.(\d+)(?:[.\-+a-z].*)?", release)
    if found is None:
        raise SimjaxError(f"backend.release={release}: there is no such release; {closest(release, list(KNOWN))}")
    return int(found[1]), int(found[2])


def defaults_of(release: str) -> dict[str, Any]:
    """The defaults of flags in a release, by name.

    Raises:
        SimjaxError: it is no release of vLLM.
    """
    minor = minor_of(release)
    return {rule.name: rule.at(minor) for rule in RULES}


def server_defaults(device: str, memory_bytes: float, release: str) -> dict[str, int]:
    """`max_num_seqs` and `max_num_batched_tokens` of vLLM's API server where no flag sets them.

    They depend on the device (vLLM's `EngineArgs.get_batch_defaults` at 0.33.0): 1024 and 8192 from 70 GiB of memory on, 16384 tokens from
    160 GiB on in 0.33, and 256 and 2048 on smaller ones and on any A100.

    Args:
        device: name of the device.
        memory_bytes: its memory.
        release: as of `defaults_of`.

    Raises:
        SimjaxError: it is no release of vLLM.
    """
    gib = memory_bytes / _GIB
    if gib < _WIDE or "a100" in device.lower():
        return {"max_num_seqs": 256, "max_num_batched_tokens": 2048}
    return {"max_num_seqs": 1024, "max_num_batched_tokens": 16384 if gib >= _WIDEST and minor_of(release) >= (0, 33) else 8192}


def balancer_rules(release: str) -> dict[str, Any]:
    """The rules of the internal load balancer in a release, by the names of `BALANCER`; errors as of `defaults_of`."""
    minor = minor_of(release)
    return {rule.name: rule.at(minor) for rule in BALANCER}


def drafting_rules(release: str) -> dict[str, Any]:
    """The rules of speculative decoding in a release, by the names of `DRAFTING`; errors as of `defaults_of`."""
    minor = minor_of(release)
    return {rule.name: rule.at(minor) for rule in DRAFTING}


def release_of(version: str) -> str:
    """The release that a recorded version belongs to, as options name it; the default where the version cannot be read."""
    try:
        first, second = minor_of(version)
    except SimjaxError:
        return DEFAULT
    return f"vllm-{first}.{second}"


def connector_gone(connector: str, release: str) -> str | None:
    """A line about a connector that a release no longer has, None if it has it."""
    since = GONE.get(connector)
    if since is None or minor_of(release) < since:
        return None
    return f"disaggregation.connector={connector}: {release} has no such connector any more (gone in {since[0]}.{since[1]} at the latest)"
