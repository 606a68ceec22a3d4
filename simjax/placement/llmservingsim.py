"""Placements in LLMServingSim's cluster files: `placement` of an instance, `cpu_mem` of its node and `cxl_mem` of the cluster.

Of `placement` it reads `weights`; `kv_evict_loc` is the store from which it reloads evicted prefixes, and has an effect only where its
command line asks for one. It parses `kv_loc` and uses it nowhere; here anything but the device is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simjax.errors import SimjaxError
from simjax.placement.pim import Pim, load_pim
from simjax.placement.stores import Store
from simjax.placement.weights import WeightPlacement, block_ranges

_DEVICE, _HOST, _CXL = "npu", "cpu", "cxl"


def read_placement(placement: Any, cpu_mem: Any, cxl_mem: Any, blocks: int) -> WeightPlacement | None:
    """The placement of an instance's weights, None where all are on its devices.

    Args:
        placement: value of that key, None without.
        cpu_mem: of its node, None without.
        cxl_mem: of the cluster, None without.
        blocks: blocks of the model.

    Raises:
        SimjaxError: a value asks for what is not there, or is not simulated.
    """
    if not placement:
        return None
    stores: dict[str, Store] = {}

    def store_of(where: str, entry: Mapping[str, Any]) -> int | None:
        if entry.get("kv_loc") not in (None, _DEVICE):
            raise SimjaxError(f"placement.{where}.kv_loc={entry['kv_loc']!r} is not simulated yet; remove it to run without")
        place = entry.get("weights") or _DEVICE
        if place == _DEVICE:
            return None
        if place not in stores:
            stores[place] = _store(f"placement.{where}.weights", place, cpu_mem, cxl_mem)
        return list(stores).index(place)

    default = store_of("default", placement.get("default") or {})
    ranges: list[tuple[int, int, int | None]] = []
    for number, entry in enumerate(placement.get("blocks") or []):
        store = store_of(f"blocks[{number}]", entry)
        ranges += [(first, last, store) for first, last in block_ranges(str(entry["blocks"]), blocks)]
    layers = tuple((name, store_of(f"layers.{name}", entry)) for name, entry in (placement.get("layers") or {}).items())
    found = WeightPlacement(tuple(stores.values()), default, tuple(ranges), layers)
    return found if found.used else None


def read_pim(instance: Mapping[str, Any], cpu_mem: Any, offloading: bool) -> Pim | None:
    """The memory that computes an instance's decode attention, None where it does not.

    Args:
        instance: the instance, with `enable_attn_offloading` and `enable_sub_batch_interleaving`.
        cpu_mem: of its node, None without; its `pim_config` names the device, and its size gives the channels.
        offloading: what `enable_attn_offloading` is where the instance does not say.

    Raises:
        SimjaxError: there is no such device, or the node has none.
    """
    given = instance.get("enable_attn_offloading")
    halves = bool(instance.get("enable_sub_batch_interleaving"))
    if not (offloading if given is None else given):
        if halves:
            raise SimjaxError("enable_sub_batch_interleaving has no effect without enable_attn_offloading")
        return None
    name = (cpu_mem or {}).get("pim_config")
    if not name:
        raise SimjaxError("enable_attn_offloading: cpu_mem of its node has no pim_config")
    device = load_pim(str(name))
    return Pim(device, max(int(float(cpu_mem["mem_size"]) * 2**30 // device.channel_bytes), 1), halves)


def _store(where: str, place: str, cpu_mem: Any, cxl_mem: Any) -> Store:
    kind, _, number = str(place).partition(":")
    memory = {_HOST: cpu_mem, _CXL: cxl_mem}.get(kind)
    if kind not in (_HOST, _CXL) or (kind == _CXL and not number.isdecimal()):
        raise SimjaxError(f"{where}={place!r}: it must be npu, cpu or cxl:<number of a device>")
    if memory is None:
        raise SimjaxError(f"{where}={place!r}: the file has no {'cpu_mem' if kind == _HOST else 'cxl_mem'}")
    if kind == _CXL and int(number) >= int(memory.get("num_devices") or 1):
        raise SimjaxError(f"{where}={place!r}: cxl_mem has {int(memory.get('num_devices') or 1)} devices, counted from 0")
    return Store(
        name=str(place),
        kind="host" if kind == _HOST else "cxl",
        capacity_bytes=float(memory["mem_size"]) * 2**30,
        bandwidth_bytes_per_s=float(memory["mem_bw"]) * 1e9,
        latency_s=float(memory.get("mem_latency") or 0) * 1e-9,
        pooled=kind == _CXL,
    )
