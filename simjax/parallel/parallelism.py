"""Over how many devices a model is spread, and in which ways."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.errors import SimjaxError

SIZES = ("tensor", "pipeline", "data", "expert")


@dataclass(frozen=True)
class Parallelism:
    """The parallel sizes of one instance, like those of vLLM's `ParallelConfig`.

    Arithmetic on bytes accepts all of them; only `tensor` and `pipeline` are simulated so far, see `require_simulated`.

    Attributes:
        tensor: ranks that share each matrix (`tensor_parallel_size`).
        pipeline: pp stages, which share the layers (`pipeline_parallel_size`).
        data: ranks that share the requests (`data_parallel_size`).
        expert: ranks that share the experts of a mixture-of-experts layer (`expert_parallel_size`); they are among the ranks above, and 1
            divides every expert by `tensor` instead.
        layer_partition: layers of each pp stage, None for vLLM's division (`simjax.parallel.stages.stage_layers`).

    Raises:
        SimjaxError: a size is below 1.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    layer_partition: tuple[int, ...] | None = None

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
        return self.tensor * self.pipeline * self.data

    def require_simulated(self) -> None:
        """Check that only sizes which simjax simulates differ from 1.

        Raises:
            SimjaxError: one of the others does.
        """
        for name in ("data", "expert"):
            size = getattr(self, name)
            if size != 1:
                raise SimjaxError(f"{name}_parallel_size={size}: not simulated yet; it must be 1")
