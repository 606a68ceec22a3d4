"""The step times of a cluster as a function of a few parameters, whose numbers may be traced."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.timing import ClusterTiming
from simjax.deployment import Deployment
from simjax.engine.params import ClusterParams, SpeculationParams
from simjax.engine.shape import power_of_two
from simjax.latency.join import join_step_times
from simjax.latency.parameters import matters, parallel_effects, present_value, with_parameters
from simjax.latency.priors import PARAMETERS, STEP_CORRECTIONS
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.profile import LatencyProfile, accepted
from simjax.latency.step_time import StepTime
from simjax.model.precision import FP8

_WITH_RANKS = ("collective_bandwidth", "collective_latency")
_OF_PARALLEL = ("exchange_bandwidth", "exchange_latency", "expert_skew", "draft_acceptance")


@dataclass(frozen=True, eq=False)
class Times:
    """The C kinds of instances of a cluster: each has a profile and a deployment, which two instances of a kind agree in.

    Equal records have equal content, whatever objects they are made of: so they may be part of a compile key.

    Attributes:
        kinds: profile and deployment of each.
        kind: int32[N], the kind of each instance.
        row: int32[N], the row of its step times; a kind has as many as pp stages.
        max_tokens, max_seqs: most scheduled tokens and requests of a step that the tables reach.
    """

    kinds: tuple[tuple[LatencyProfile, Deployment], ...]
    kind: np.ndarray
    row: np.ndarray
    max_tokens: int
    max_seqs: int
    digest: bytes

    @classmethod
    def of(cls, instances: Sequence[InstanceSpec], source: LatencySource) -> Times:
        """Group instances by what their times depend on.

        Raises:
            SimjaxError: there is no profile for one of them.
        """
        kinds: list[tuple[LatencyProfile, Deployment]] = []
        place = []
        for instance in instances:
            deployment = instance.deployment.with_times_only()
            known = next((i for i, (_, other) in enumerate(kinds) if other == deployment), len(kinds))
            if known == len(kinds):
                kinds.append((source.profile_of(deployment), deployment))
            place.append(known)
        first = np.cumsum([0, *(x.parallelism.pipeline for _, x in kinds)])
        most = [power_of_two(max(getattr(x.limits, name) for x in instances)) for name in ("max_num_batched_tokens", "max_num_seqs")]
        kind, row = np.array(place, np.int32), first[place].astype(np.int32)
        digest = hashlib.sha256(pickle.dumps((kinds, place, most))).digest()
        return cls(tuple(kinds), kind, row, most[0], most[1], digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Times) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters of `simjax.latency.priors` that can change a time of some kind, and their values: float64[C] each.

        Factors are 1: they are relative to the profile and what the configuration puts on top of it.
        """
        names = [name for name in PARAMETERS if name not in STEP_CORRECTIONS and any(_acts(name, *x) for x in self.kinds)]
        return {name: np.array([_present(name, *x) for x in self.kinds]) for name in names}

    def step_time(self, profiles: Sequence[LatencyProfile], xp: ModuleType = jnp) -> StepTime:
        """The step times by the profiles of the kinds, a row for each pp stage of each; call it inside `jax.enable_x64(True)`."""
        stages = [(profile, stage) for profile, (_, deployment) in zip(profiles, self.kinds, strict=True) for stage in deployment.stages]
        parts = [compile_profile(profile, stage, self.max_tokens, self.max_seqs, xp) for profile, stage in stages]
        return parts[0] if len(parts) == 1 else join_step_times(parts)

    def on_host(self) -> ClusterTiming:
        """The times as they are, host arrays; drafts are accepted as the instances state, for `timed` to change it."""
        profiles = [profile for profile, _ in self.kinds]
        with jax.enable_x64(True):
            step_time = jax.tree.map(np.asarray, self.step_time(profiles, np))
        pre_s, post_s = (np.array([float(getattr(x.host, name)) for x in profiles])[self.kind] for name in ("api_pre_s", "api_post_s"))
        return ClusterTiming(step_time, self.row, pre_s, post_s, ())

    def timed(self, params: ClusterParams, values: Mapping[str, Array]) -> ClusterParams:
        """The parameters of a run with the times by these values, float64[C] each; all may be traced. Needs 64 bits."""
        of_kind = [{name: value[c] for name, value in values.items()} for c in range(len(self.kinds))]
        profiles = [with_parameters(profile, mine) for (profile, _), mine in zip(self.kinds, of_kind, strict=True)]
        rows = [profile for profile, (_, x) in zip(profiles, self.kinds, strict=True) for _ in x.stages]
        params = params.unfolded()

        def of_ranks(numbers: list[object]) -> Array:
            return jnp.stack([jnp.asarray(x, jnp.float64) for x in numbers])[params.ranks.step_time]

        api = {name: of_ranks([getattr(x.host, name) for x in rows]) for name in ("api_pre_s", "api_post_s")}
        drafts = params.speculation
        if isinstance(drafts, SpeculationParams):
            longer = of_ranks([x.parallel.draft_acceptance for x in rows])[..., None]
            drafts = replace(drafts, rates=accepted(drafts.rates, longer))
        return replace(params, ranks=replace(params.ranks, **api), step_time=self.step_time(profiles), speculation=drafts)


def _acts(name: str, profile: LatencyProfile, deployment: Deployment) -> bool:
    """Whether a parameter can change a time of an instance."""
    if name in _WITH_RANKS:
        return deployment.parallelism.tensor > 1
    if name in _OF_PARALLEL:
        return name in parallel_effects(deployment)
    if name == "launch_s" and not any(deployment.launches):
        return False
    if name == "fp8_compute" and deployment.model.quantization not in FP8:
        return False
    return matters(profile, name)


def _present(name: str, profile: LatencyProfile, deployment: Deployment) -> float:
    if name == "decode_skew":  # that of the degree in use: a profile may have others
        return float(profile.rank(deployment.parallelism.tensor, deployment.model).attention.decode_skew)
    return present_value(profile, name)
