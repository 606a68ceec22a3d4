"""A fit of the hand-over's parameters to measured transfers of KV caches.

A transfer that has its path to itself takes setup_s + bytes / (link_efficiency · bandwidth): two parameters, each with a prior. Residuals
are logarithms, as transfers of 20 MB and of 5 GB should count alike, with a Huber loss, as one odd measurement should not count for many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from simjax.cluster.spec import ClusterSpec
from simjax.cluster.transfers import transfer_paths
from simjax.deployment import Role
from simjax.errors import SimjaxError
from simjax.latency.priors import Parameter

NOISE = 0.02  # of one measurement, relative
_RDMA = "8 x H800 to 8 x H800 over eight adapters, MooncakeConnector: 0.37 ms; NIXL: 1 to 2 ms (posting and polling)"
_RATES = "peak rates of transfers that were published: 0.71 to 0.82 of the line's"
_PROXY = "vLLM pull request 51919: of 197 ms of hand-over, steps and transfer explain 181 ms"
_POSTING = "NIXL over RDMA: 6.7 ms to post 1,785 descriptors"

HANDOVER: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter("setup_s", "s", 0.4e-3, 0.7, _RDMA, "time of a transfer that does not depend on its size"),
        Parameter("link_efficiency", "share", 0.70, 0.3, _RATES, "share of the bandwidth of links that transfers attain"),
        Parameter("handover_s", "s", 16e-3, 1.0, _PROXY, "from the prefill's answer to the request at the decode instance, in the proxy"),
        Parameter("per_descriptor_s", "s", 4e-6, 1.0, _POSTING, "time for each contiguous piece of the KV cache"),
    )
}
"""The parameters of `simjax.cluster.disaggregation.Disaggregation` that measurements can tell, with their priors."""
FITTED = ("setup_s", "link_efficiency")
"""Those that transfers alone tell: descriptors grow with the bytes."""


def alone_s(cluster: ClusterSpec, prompt_tokens: ArrayLike) -> np.ndarray:
    """Seconds of transfers of whole prompts from the first prefill to the first decode instance, each with its path to itself.

    Raises:
        SimjaxError: the cluster has no such instances.
    """
    roles = [one.role for one in cluster.instances]
    if not cluster.disaggregated:
        raise SimjaxError("a transfer needs a prefill and a decode instance")
    sender, receiver = roles.index(Role.PREFILL), roles.index(Role.DECODE)
    return transfer_paths(cluster).alone_s(sender, receiver, np.asarray(prompt_tokens), cluster.instances[receiver].limits.block_size)


def with_handover(cluster: ClusterSpec, values: Mapping[str, float]) -> ClusterSpec:
    """The cluster with these parameters of its hand-over."""
    return replace(cluster, disaggregation=replace(cluster.disaggregation, **values))


def fit_transfers(cluster: ClusterSpec, prompt_tokens: ArrayLike, seconds: ArrayLike) -> dict[str, float]:
    """The values of `FITTED` that are most probable after transfers of whole prompts were measured on a cluster like this one.

    Raises:
        SimjaxError: there is no measurement, or one that is not positive.
    """
    from scipy.optimize import least_squares  # here, not at the top: simulating does not need it

    measured = np.asarray(seconds, float)
    if not len(measured) or measured.shape != np.shape(prompt_tokens) or not np.all(measured > 0):
        raise SimjaxError("a fit of transfers needs prompts and as many times, all of them positive")
    parameters = [HANDOVER[name] for name in FITTED]
    priors = np.array([p.transform(p.prior) for p in parameters])
    spreads = np.array([p.prior_sd for p in parameters])

    def values(z: np.ndarray) -> dict[str, float]:
        return {p.name: float(p.value(x)) for p, x in zip(parameters, z, strict=True)}

    def residual(z: np.ndarray) -> np.ndarray:
        off = np.log(alone_s(with_handover(cluster, values(z)), prompt_tokens) / measured) / NOISE
        return np.concatenate([off, (z - priors) / spreads])

    return values(least_squares(residual, priors, loss="huber").x)
