"""The layers of each pp stage, as vLLM divides them."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class Stage:
    """The layers of a pp stage, `number` of `count`: those from `start` up to `end`, all counted from 0."""

    number: int
    count: int
    start: int
    end: int

    @property
    def first(self) -> bool:
        """Whether it has the embedding."""
        return self.number == 0

    @property
    def last(self) -> bool:
        """Whether it has the last norm, the output head and the sampler."""
        return self.number == self.count - 1

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.end - self.start


def stage_layers(layers: int, stages: int, partition: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Layers of each stage: those of `partition` (vLLM's VLLM_PP_LAYER_PARTITION), or as even as vLLM's `get_pp_indices` makes them.

    What an even division leaves over goes to the stages before the last one, one each, from behind; the last has the head besides.

    Raises:
        SimjaxError: there are fewer layers than stages, or the partition is none of the layers.
    """
    if partition is not None:
        if len(partition) != stages:
            raise SimjaxError(f"pipeline_layer_partition={list(partition)}: it needs a number for each of pipeline_parallel_size={stages}")
        if sum(partition) != layers or min(partition) < 1:
            raise SimjaxError(f"pipeline_layer_partition={list(partition)}: the numbers must be at least 1 and add up to {layers} layers")
        return partition
    if stages > layers:
        raise SimjaxError(f"pipeline_parallel_size={stages}: the model has {layers} layers, fewer than stages")
    found = [layers // stages] * stages
    for left in range(layers % stages):
        found[stages - 2 - left] += 1
    return tuple(found)


def stages_of(layers: int, stages: int, partition: tuple[int, ...] | None = None) -> tuple[Stage, ...]:
    """The stages in order; arguments and errors as of `stage_layers`."""
    found, start = [], 0
    for number, of_stage in enumerate(stage_layers(layers, stages, partition)):
        found.append(Stage(number, stages, start, start + of_stage))
        start += of_stage
    return tuple(found)
