"""Step times and API times of instances by one profile whose numbers may be traced: a fit differentiates through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.timing import ClusterTiming
from simjax.deployment import Deployment
from simjax.engine.params import ClusterParams, SpeculationParams
from simjax.latency.join import join_step_times
from simjax.latency.priors import VLLM
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.profile import HostOverheads, LatencyProfile, accepted
from simjax.latency.step_time import StepTime


@dataclass(frozen=True)
class ProfileTiming:
    """N instances whose times all come from one profile.

    Attributes:
        kinds: distinct combinations of the backend whose host times an instance has and all else that its step times depend on; C of them.
        row: int32[N], the step times of each instance: those of the kinds follow each other, one row for each of their pp stages.
        max_tokens: most scheduled tokens of a step that the tables reach.
        max_seqs: most requests of a step that they reach.
    """

    kinds: tuple[tuple[str, Deployment], ...]
    row: np.ndarray
    max_tokens: int
    max_seqs: int

    @classmethod
    def of(cls, instances: Sequence[InstanceSpec], max_tokens: int, max_seqs: int, backends: Sequence[str] = ()) -> ProfileTiming:
        """Group instances by what their times depend on.

        Args:
            instances: the instances.
            max_tokens: most scheduled tokens of a step of any of them.
            max_seqs: most requests of a step.
            backends: the backend of each, as `LatencyProfile.for_backend` knows it; vLLM for all when empty.
        """
        kinds: list[tuple[str, Deployment]] = []
        place = []
        for backend, instance in zip(backends or [VLLM] * len(instances), instances, strict=True):
            kind = (backend, instance.deployment.with_times_only())
            if kind not in kinds:  # deployments are compared, not hashed: a device holds mappings
                kinds.append(kind)
            place.append(kinds.index(kind))
        first = np.cumsum([0, *(x.parallelism.pipeline for _, x in kinds)])
        return cls(tuple(kinds), first[place].astype(np.int32), max_tokens, max_seqs)

    def step_time(self, profile: LatencyProfile, xp: ModuleType = jnp) -> StepTime:
        """The step times by the profile, a row for each pp stage of each kind; call it inside `jax.enable_x64(True)`."""
        sizes = self.max_tokens, self.max_seqs
        stages = [(profile.for_backend(backend), stage) for backend, deployment in self.kinds for stage in deployment.stages]
        parts = [compile_profile(of_backend, stage, *sizes, xp) for of_backend, stage in stages]
        return parts[0] if len(parts) == 1 else join_step_times(parts)

    def on_host(self, profile: LatencyProfile) -> ClusterTiming:
        """The times by a profile of plain numbers, host arrays; drafts are accepted as the instances state, for `timed` to change it.

        Raises:
            SimjaxError: the profile does not hold for an instance.
        """
        with jax.enable_x64(True):
            step_time = jax.tree.map(np.asarray, self.step_time(profile, np))
        hosts = self._hosts(profile)
        pre_s, post_s = (np.array([float(getattr(host, name)) for host in hosts]) for name in ("api_pre_s", "api_post_s"))
        return ClusterTiming(step_time, self.row, pre_s[self.row], post_s[self.row], ())

    def _hosts(self, profile: LatencyProfile) -> list[HostOverheads]:
        """The host times that go with each row of the step times."""
        return [profile.for_backend(backend).host for backend, deployment in self.kinds for _ in deployment.stages]

    def timed(self, params: ClusterParams, profile: LatencyProfile) -> ClusterParams:
        """The parameters of a run or batch on the device, with the times by the profile; call it inside `jax.enable_x64(True)`.

        Args:
            params: host arrays in which leaf `ranks.step_time`, int32[..., N], holds the row of each rank, and whose acceptance rates of
                drafts are those that the instances state.
            profile: its numbers may be traced.
        """
        params = jax.tree.map(jnp.asarray, params).unfolded()
        hosts = self._hosts(profile)

        def api_s(name: str) -> Array:
            return jnp.stack([jnp.asarray(getattr(host, name), jnp.float64) for host in hosts])[params.ranks.step_time]

        ranks = replace(params.ranks, api_pre_s=api_s("api_pre_s"), api_post_s=api_s("api_post_s"))
        drafts = params.speculation
        if isinstance(drafts, SpeculationParams):  # draws are compared with them: nothing flows through
            drafts = replace(drafts, rates=jax.lax.stop_gradient(accepted(drafts.rates, profile.parallel.draft_acceptance)))
        return replace(params, ranks=ranks, step_time=self.step_time(profile), speculation=drafts)
