"""The parameters of a hand-over that measurements can tell, and their priors. This module needs no JAX."""

from simjax.latency.priors import Parameter

_RDMA = "8 x H800 to 8 x H800 over eight adapters, MooncakeConnector: 0.37 ms; NIXL: 1 to 2 ms (posting and polling)"
_RATES = "peak rates of transfers that were published: 0.71 to 0.82 of the line's"
_PROXY = "vLLM pull request 51919: of 197 ms of hand-over, steps and transfer explain 181 ms"
_POSTING = "NIXL over RDMA: 6.7 ms to post 1,785 descriptors"
_SLEEP = "vLLM 0.19: its engine core sleeps 1 ms after a pass that ran nothing"

HANDOVER: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter("setup_s", "s", 0.4e-3, 0.7, _RDMA, "time of a transfer that does not depend on its size"),
        Parameter("link_efficiency", "share", 0.70, 0.3, _RATES, "share of the bandwidth of links that transfers attain"),
        Parameter("handover_s", "s", 16e-3, 1.0, _PROXY, "from the prefill's answer to the request at the decode instance, in the proxy"),
        Parameter("per_descriptor_s", "s", 4e-6, 1.0, _POSTING, "time for each contiguous piece of the KV cache"),
        Parameter("empty_pass_s", "s", 1e-3, 0.5, _SLEEP, "sleep of an engine that has requests and can run none"),
    )
}
"""The parameters of `simjax.cluster.disaggregation.Disaggregation` that measurements can tell, with their priors."""

WHY_NOT = {
    "setup_s": "no transfer was measured",
    "link_efficiency": "no transfer was measured",
    "per_descriptor_s": "pieces grow with bytes, as the time of a lower link_efficiency does; transfers with blocks of several sizes "
    "(column block_size) tell them apart",
    "handover_s": "no request was measured (requests=FILE)",
    "empty_pass_s": "it moves what waits at an idle engine by less than itself; parameters.empty_pass_s.free=true fits it",
}
"""Reasons why a parameter is not fitted by itself."""
