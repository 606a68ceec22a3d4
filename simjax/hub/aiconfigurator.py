"""Measured operators of NVIDIA's `aiconfigurator-core` package: matrix products and experts by device, backend and format.

The package's tables are Parquet files, `systems/data/<system>/<family>/<backend>/<version>/<table>_perf.parquet`. Times are in
milliseconds; n, k, heads and widths are those of one device. What must be known of them:

- `fp8_block` matrix products of vLLM 0.24 at few rows are noise of their launches, tens to hundreds of microseconds: they are left out.
- Tokens choose experts by three distributions; `power_law_1.01` is taken, between even shares and the skewest one.
- A table holds the same point once for each kernel that was tried: the fastest is taken.
- The sample of measured deployments that lies beside the tables is never read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.interpolate import RegularGridInterpolator

from simjax.errors import SimjaxError, closest
from simjax.latency.fitting.fit_ops import Measured
from simjax.model import load_model
from simjax.model.ops import Op, matrix_product, step_ops

Frame = Any  # a pandas.DataFrame, of whose methods pyright knows too little
PACKAGE = "aiconfigurator_core"
BACKENDS = ("vllm", "trtllm", "sglang")
FORMATS = {
    "bfloat16": None,
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_mxfp8",
    "int4_wo": "int4",
}
"""simjax's format of weights by that of a table, None for those in 16 bits."""
DISTRIBUTION = "power_law_1.01"
SIDES = (256, 65536)  # least and most k and n of a matrix product that are read
MOST_ROWS = 16384
LEAST_MS = 1e-3  # no kernel takes less
_EXPERTS = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size", "distribution", "num_tokens")


@dataclass(frozen=True)
class Table:
    """Measured operations of one kind: `gemm` or `experts`, with the format of their weights; each is an operation of one shape.

    `backend` is None where they hold for all backends; `version` says whose kernels they are.
    """

    kind: str
    format: str | None
    backend: str | None
    version: str
    measured: tuple[Measured, ...]

    @property
    def key(self) -> str:
        """Its name among the operations of a profile."""
        return self.kind if self.format is None else f"{self.kind}_{self.format}"


def systems_folder(given: Path | None = None) -> Path:
    """The folder `systems` of the installed package, or the one given.

    Raises:
        SimjaxError: it is not there.
    """
    if given is None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise SimjaxError(f"{PACKAGE} is not installed: pip install aiconfigurator-core, or give its folder of systems (from=DIR)")
        given = Path(next(iter(found.submodule_search_locations))) / "systems"
    if not (given / "data").is_dir():
        raise SimjaxError(f"{given}: no operator tables of aiconfigurator-core there (a folder with data/<system> in it)")
    return given


def tables(folder: Path, names: tuple[str, ...]) -> Iterator[Table]:
    """The tables of a device, matrix products of all backends together first.

    Args:
        folder: `systems_folder()`.
        names: names of the device.

    Raises:
        SimjaxError: the package has no such system, or one of its files is none of these tables.
    """
    system = _system(folder, names)
    yield from _of_products(folder, system)
    for backend in BACKENDS:
        path = _current(folder, system, "moe", "moe", backend)
        if path is None:
            continue
        frame = _read(path, "moe_dtype", *_EXPERTS)
        frame = frame[(frame["distribution"] == DISTRIBUTION) & (frame["num_tokens"] <= MOST_ROWS) & (frame["moe_dtype"].isin(FORMATS))]
        for dtype, mine in frame.groupby("moe_dtype"):
            format = FORMATS[str(dtype)]
            if found := tuple(_experts(mine, format)):
                yield Table("experts", format, backend, f"{backend} {path.parent.name}", found)


def _system(folder: Path, names: tuple[str, ...]) -> str:
    systems = sorted(path.name for path in (folder / "data").iterdir() if path.is_dir())
    lower = {name.lower().replace("-", "_").replace(" ", "_") for name in names}
    for system in systems:
        if lower & {system, system.removesuffix("_sxm"), system.removesuffix("_server")}:
            return system
    raise SimjaxError(f"aiconfigurator-core has no operators of {names[0]}; {closest(names[0], systems)}")


def _of_products(folder: Path, system: str) -> Iterator[Table]:
    """Matrix products by format: at each shape the fastest backend, for all of them call the vendor's libraries.

    What a backend's table has on top of another's is what it does around the product: launches, and in TensorRT-LLM's fp8 the scale of the
    input, which checkpoints state, and its conversion, which served models do within the operation before. The table of quantisation of
    the same package has the times of both, which are taken off.
    """
    frames = []
    for backend in BACKENDS:
        path = _current(folder, system, "gemm", "gemm", backend)
        if path is None:
            continue
        frame = _read(path, "gemm_dtype", "m", "n", "k").assign(version=f"{backend} {path.parent.name}")
        noise = (frame["gemm_dtype"] == "fp8_block") & (backend == "vllm")
        frame = frame[~noise & frame["k"].between(*SIDES) & frame["n"].between(*SIDES) & (frame["m"] <= MOST_ROWS)]
        if backend == "trtllm":
            frame = _without_quantization(folder, system, frame)
        frames.append(frame)
    every: Frame = pd.concat(frames)
    every = every.assign(format=every["gemm_dtype"].map(lambda x: FORMATS.get(x)).fillna("none"))
    versions = ", ".join(dict.fromkeys(every["version"]))
    for format, mine in every.groupby("format"):
        name = None if format == "none" else str(format)
        yield Table("gemm", name, None, versions, tuple(_products(mine, name)))


def _without_quantization(folder: Path, system: str, frame: Frame) -> Frame:
    """TensorRT-LLM's matrix products without the time in which the scale of the input is found, and it is converted to fp8."""
    fp8 = frame["gemm_dtype"] == "fp8"
    for name in ("computescale", "scale_matrix"):
        path = _current(folder, system, "quantize", name, "trtllm")
        if path is None:
            return frame[~fp8]
        table = _read(path, "m", "k").groupby(["k", "m"])["latency"].mean().unstack()
        places = [np.log2(axis.to_numpy(float)) for axis in (table.index, table.columns)]
        at = RegularGridInterpolator(places, table.ffill(axis=1).bfill(axis=1).to_numpy(float), bounds_error=False, fill_value=None)  # pyright: ignore[reportArgumentType]
        taken = at(np.log2(frame.loc[fp8, ["k", "m"]].to_numpy(float)))
        frame = frame.assign(latency=frame["latency"].where(~fp8, frame["latency"] - pd.Series(taken, frame.index[fp8])))
    return frame[frame["latency"] > LEAST_MS]


def _current(folder: Path, system: str, family: str, table: str, backend: str) -> Path | None:
    """The table of the version that the package names as the backend's current one; None where there is none."""
    known = yaml.safe_load((folder / "query_versions.yaml").read_text())
    versions = known["defaults"] | (known.get("overrides") or {}).get(system, {})
    if backend not in versions:
        return None
    path = folder / "data" / system / family / backend / str(versions[backend]["current"]) / f"{table}_perf.parquet"
    return path if path.exists() else None


def _read(path: Path, *needed: str) -> Frame:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise SimjaxError("reading Parquet tables needs pyarrow: pip install pyarrow") from None
    except (OSError, ValueError) as error:
        raise SimjaxError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from None
    for column in (*needed, "latency"):
        if column not in frame:
            raise SimjaxError(f"{path}: column {column!r} is missing; the table has {', '.join(needed)} and latency")
    return frame[frame["latency"] >= 0].reset_index(drop=True)


def _products(frame: Frame, format: str | None) -> Iterator[Measured]:
    for (k, n), mine in frame.groupby(["k", "n"]):
        yield _measured(matrix_product("gemm", int(k), int(n), format), mine, "m")


def _experts(frame: Frame, format: str | None) -> Iterator[Measured]:
    plain = replace(load_model("qwen3-30b-a3b"), quantization=format)
    for shape, mine in frame.groupby(list(_EXPERTS[:-2])):
        h, width, top, experts, tp, ep = (int(x) for x in shape)
        if width % tp or experts % ep or top > experts:
            continue
        model = replace(plain, hidden_size=h, moe_intermediate_size=width // tp, num_experts=experts, num_experts_per_tok=top)
        (op,) = (x for x in step_ops(model, 1, ep) if x.experts)
        yield _measured(op, mine, "num_tokens")


def _measured(op: Op, frame: Frame, rows: str) -> Measured:
    fastest = frame.groupby(rows)["latency"].min()
    return Measured(replace(op, count=1), fastest.index.to_numpy(float), 1e-3 * np.asarray(fastest, float))
