"""Over how many devices a model is spread, and in which ways."""

from __future__ import annotations

from dataclasses import dataclass, fields

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class Parallelism:
    """The parallel sizes of one instance, like those of vLLM's `ParallelConfig`.

    Arithmetic on bytes accepts all of them; only `tensor` is simulated so far, see `require_simulated`.

    Attributes:
        tensor: ranks that share each matrix (`tensor_parallel_size`).
        pipeline: ranks that share the layers (`pipeline_parallel_size`).
        data: ranks that share the requests (`data_parallel_size`).
        expert: ranks that share the experts of a mixture-of-experts layer (`expert_parallel_size`); they are among the ranks above, and 1
            divides every expert by `tensor` instead.

    Raises:
        SimjaxError: a size is below 1.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if size < 1:
                raise SimjaxError(f"cluster.{field.name}_parallel_size={size}: it must be at least 1")

    @property
    def num_devices(self) -> int:
        """Devices of the instance."""
        return self.tensor * self.pipeline * self.data

    def require_simulated(self) -> None:
        """Check that only sizes which simjax simulates differ from 1.

        Raises:
            SimjaxError: one of the others does.
        """
        for name in ("pipeline", "data", "expert"):
            size = getattr(self, name)
            if size != 1:
                raise SimjaxError(f"{name}_parallel_size={size}: not simulated yet; it must be 1")
