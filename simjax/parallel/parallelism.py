"""Over how many devices a model is spread, and in which ways."""

from __future__ import annotations

from dataclasses import dataclass, field

from simjax.errors import SimjaxError
from simjax.parallel.experts import Experts

SIZES = ("tensor", "pipeline", "data", "expert")


@dataclass(frozen=True)
class Parallelism:
    """The parallel sizes of one instance, like those of vLLM's `ParallelConfig`.

    Attributes:
        tensor: ranks that share each matrix (`tensor_parallel_size`).
        pipeline: pp stages, which share the layers (`pipeline_parallel_size`).
        data: data-parallel ranks, which share the requests (`data_parallel_size`): each has `devices_per_rank` devices, a scheduler and a
            KV cache of its own.
        expert: ranks that share the experts of a mixture-of-experts layer (`expert_parallel_size`); they are among the ranks above, and 1
            divides every expert by `tensor` times `data` instead.
        layer_partition: layers of each pp stage, None for vLLM's division (`simjax.parallel.stages.stage_layers`).
        experts: placement and popularity of the experts.

    Raises:
        SimjaxError: a size is below 1.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    layer_partition: tuple[int, ...] | None = None
    experts: Experts = field(default_factory=Experts)

    def __post_init__(self) -> None:
        for name in SIZES:
            size = getattr(self, name)
            if size < 1:
                raise SimjaxError(f"cluster.{name}_parallel_size={size}: it must be at least 1")
        if self.layer_partition is not None and len(self.layer_partition) != self.pipeline:
            numbers = ",".join(map(str, self.layer_partition))
            raise SimjaxError(f"cluster.pipeline_layer_partition=[{numbers}]: pipeline_parallel_size={self.pipeline} needs as many numbers")

    @property
    def num_devices(self) -> int:
        """Devices of the instance."""
        return self.devices_per_rank * self.data

    @property
    def devices_per_rank(self) -> int:
        """Devices of each data-parallel rank."""
        return self.tensor * self.pipeline

    def require_simulated(self) -> None:
        """Check that the sizes are ones which simjax simulates.

        Raises:
            SimjaxError: they are not.
        """
        group = self.tensor * self.data
        if self.expert not in (1, group):
            raise SimjaxError(f"expert_parallel_size={self.expert}: vLLM's is that of all ranks, {group}, or 1 without it")
