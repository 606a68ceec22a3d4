"""How many devices read weights from a memory outside at the same time."""

from __future__ import annotations

from dataclasses import replace

from simjax.cluster.instance import InstanceSpec
from simjax.errors import SimjaxError
from simjax.memory.offload import moved_bytes
from simjax.network.placement import Nodes


def with_readers(instances: tuple[InstanceSpec, ...], nodes: tuple[Nodes, ...]) -> tuple[InstanceSpec, ...]:
    """The instances with the number of devices that read from the stores of their weights at the same time.

    A server's memory is read by its own devices, a pool by all.

    Raises:
        SimjaxError: a store does not hold what is placed there.
    """
    devices: dict[tuple[str, int | None], int] = {}
    held: dict[tuple[str, int | None], float] = {}

    def places(number: int, store: int) -> list[tuple[str, int | None]]:
        placement = instances[number].weights
        assert placement is not None
        name, pooled = placement.stores[store].name, placement.stores[store].pooled
        return [(name, None)] if pooled else [(name, node) for node in nodes[number]]

    moved = [[moved_bytes(stage) for stage in one.deployment.stages] if one.weights else [] for one in instances]
    for number, (one, stages) in enumerate(zip(instances, moved, strict=True)):
        for sizes in stages:
            for store, size in sizes.items():
                found = places(number, store)
                ranks = one.parallelism.num_devices // len(stages)
                for at in found:
                    devices[at] = devices.get(at, 0) + -(-ranks // len(found))
                    held[at] = held.get(at, 0.0) + size * ranks / len(found)
    made: dict[tuple[int, tuple[int, ...]], InstanceSpec] = {}
    renewed: list[InstanceSpec] = []
    for number, one in enumerate(instances):
        if (placement := one.weights) is None:
            renewed.append(one)
            continue
        readers: list[int] = []
        for k, store in enumerate(placement.stores):
            found = places(number, k)
            readers.append(max(max(devices.get(at, 1) for at in found), 1))
            most = max(held.get(at, 0.0) for at in found)
            if most > store.room_bytes:
                raise SimjaxError(
                    f"weights: {most / 2**30:.1f} GiB are placed in {store.name}, which holds {store.room_bytes / 2**30:.1f} GiB"
                )
        key = id(one), tuple(readers)
        if key not in made:
            made[key] = replace(one, weights=placement.read_by(readers))
        renewed.append(made[key])
    return tuple(renewed)
