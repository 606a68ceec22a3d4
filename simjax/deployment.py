"""One model on one kind of device in one way: the properties of an instance on which its memory and its step times depend."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

from simjax.hardware import DeviceSpec, LinkSpec
from simjax.model import ModelSpec
from simjax.model.dtypes import canonical_dtype
from simjax.parallel.experts import LLMSERVINGSIM
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.stages import Stage, stages_of
from simjax.placement.pim import Pim
from simjax.placement.weights import WeightPlacement
from simjax.speculation.methods import MOST_DRAFTS, Speculation


class Role(Enum):
    """The phases of a request that an instance runs."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True)
class Deployment:
    """A deployed model.

    Deployments are compared rather than hashed, because a device holds mappings. Fields that are left out are filled in when the record is
    made, so that equal deployments compare equal however they were described.

    Attributes:
        model: architecture that runs.
        device: kind of device it runs on.
        parallelism: number of devices and how they share the work.
        link: link between the devices; None on input means the device's own link within a node.
        kv_cache_dtype: data type of keys and values; "auto" on input means the one of the checkpoint.
        launches: whether the host launches kernels one by one in decode-only steps, and in steps with a prompt (no CUDA graph does it).
        async_scheduling: whether the host schedules a step while the device runs the one before (vLLM's `async_scheduling`).
        role: phases of a request that it runs.
        kv_stream: link over which its steps send the KV cache of their tokens, layer by layer, before they end; None if they do not.
        speculation: speculative decoding, None without.
        stage: the pp stage that is looked at, None for all layers: see `stages`.
        weights: which weights are in memory outside the devices, None where none are.
        pim: memory that computes decode attention, None where the device does.

    Raises:
        SimjaxError: the data type is unknown.
    """

    model: ModelSpec
    device: DeviceSpec
    parallelism: Parallelism = field(default_factory=Parallelism)
    link: LinkSpec = None  # type: ignore[assignment]  # filled in below
    kv_cache_dtype: str = "auto"
    launches: tuple[bool, bool] = (False, False)
    async_scheduling: bool = True
    role: Role = Role.BOTH
    kv_stream: LinkSpec | None = None
    speculation: Speculation | None = None
    stage: Stage | None = None
    weights: WeightPlacement | None = None
    pim: Pim | None = None

    def __post_init__(self) -> None:
        own = self.model.kv_cache_dtype or self.model.dtype
        dtype = own if self.kv_cache_dtype == "auto" else canonical_dtype(self.kv_cache_dtype)
        object.__setattr__(self, "kv_cache_dtype", dtype)
        if self.link is None:
            object.__setattr__(self, "link", self.device.node.intra_link)

    @property
    def nodes(self) -> int:
        """Servers over which the tensor-parallel ranks are spread evenly, as few as hold them; 1 where a link was given for all of them."""
        node = self.device.node
        return 1 if self.link != node.intra_link else node.nodes_for(self.parallelism.tensor)

    @property
    def grouped(self) -> bool:
        """Whether its data-parallel ranks take every step together, as those of a mixture of experts do (LLMServingSim's do always)."""
        return self.parallelism.data > 1 and (self.model.is_moe or self._simplified)

    @property
    def _simplified(self) -> bool:
        return self.parallelism.experts.all2all_backend == LLMSERVINGSIM

    @property
    def exchanges(self) -> bool:
        """Whether the ranks exchange tokens in MoE layers; within a tensor-parallel group, only by LLMServingSim's simplification."""
        return self.model.is_moe and (self.grouped or (self._simplified and self.parallelism.expert > 1))

    @property
    def stages(self) -> tuple[Deployment, ...]:
        """The deployment as each of its pp stages sees it; itself where it has one stage.

        Raises:
            SimjaxError: the layers cannot be divided so.
        """
        if self.parallelism.pipeline == 1:
            return (self,)
        layers, parallelism = self.model.num_hidden_layers, self.parallelism
        return tuple(replace(self, stage=x) for x in stages_of(layers, parallelism.pipeline, parallelism.layer_partition))

    @cached_property
    def part(self) -> ModelSpec:
        """The model with the layers of the stage only; in a mixture of experts dense layers come first."""
        if self.stage is None:
            return self.model
        return self.model.layers(self.stage.start, self.stage.end)

    @property
    def has_embedding(self) -> bool:
        """Whether the stage has the embedding."""
        return self.stage is None or self.stage.first

    @property
    def has_head(self) -> bool:
        """Whether the stage has the last norm, the output head and the sampler."""
        return self.stage is None or self.stage.last

    def with_times_only(self) -> Deployment:
        """The deployment without what changes no step time, the size of the memory, the role and accepted drafts: for comparisons."""
        drafts = None if self.speculation is None else replace(self.speculation, rates=(0.0,) * MOST_DRAFTS, seed=0)
        return replace(self, device=replace(self.device, memory_bytes=0), role=Role.BOTH, speculation=drafts)
