"""Measured mean points: deployments for which a table gives mean TTFT and TPOT at a number of requests in flight.

The columns are those of aiconfigurator's and InferenceX's collections: id, system, model_path, backend, precision, mode, true_tp, true_ep,
true_dp, pp_size, concurrency, isl, osl, ttft_ms, tpot_ms, source_kind; other columns are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from simjax.calibrate.targets.checkpoints import UNQUANTIZED, original, served
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec, load_device
from simjax.latency.priors import OTHER_BACKENDS, VLLM
from simjax.model import ModelSpec
from simjax.parallel.experts import Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity
from simjax.speculation.methods import Speculation

NEEDED = ("id", "system", "model_path", "true_tp", "concurrency", "isl", "osl", "ttft_ms", "tpot_ms")
DEFAULTS = {"backend": "vllm", "precision": "", "mode": "agg", "true_ep": "", "true_dp": "", "pp_size": "", "source_kind": ""}
VERSION = "backend_version"
INFERENCEX = "inferencex"  # start of its source_kind
GAP_ANALYSIS = "nvidia_dynamo_gap_analysis"
CUDAGRAPHS = {"trtllm": "full_decode_only", "sglang": "full_decode_only"}  # their defaults
UTILIZATION = 0.95  # most that its scripts give vLLM and SGLang; DeepSeek V3 in fp8 on four B200 needs it
INFERENCEX_UNIFORM_FROM = 0.8  # it draws lengths evenly between this fraction of the nominal one and all of it


@dataclass(frozen=True)
class MeanPoint:
    """A deployment in a closed loop and the means that a client measured.

    Attributes:
        id: name of the point in the table.
        model, device: the model, and the device that it ran on.
        tensor_parallel_size: number of devices that it, or each of its pp stages and data-parallel ranks, was spread over.
        concurrency: requests in flight.
        prompt_tokens, output_tokens: nominal lengths.
        ttft_s, tpot_s: measured means over requests.
        uniform_from: lengths are uniform between this fraction of the nominal one and all of it; 1 where all are equal.
        kv_cache_dtype: data type of keys and values, "auto" for the model's own.
        max_num_batched_tokens, max_num_seqs: limits of the scheduler.
        backend: vllm, sglang or trtllm.
        gpu_memory_utilization: share of the memory that weights and KV cache take.
        receive_interval: steps from one look for new requests to the next (SGLang's `scheduler_recv_interval`): a request waits half as
            many in the mean, which is added to the simulated TTFT; requests that wait together are not simulated as such.
        cudagraph_mode: which steps its CUDA graphs launch, as in `InstanceLimits`.
        pipeline_parallel_size, data_parallel_size: pp stages and data-parallel ranks.
        enable_expert_parallel: whether all of its devices share whole experts.
        speculation: speculative decoding, None without; no column of a table tells it.
        popularity: how its tokens choose experts; no column tells that either.
        group: name that the points of one deployment share in a table of errors.
    """

    id: str
    model: ModelSpec
    device: DeviceSpec
    tensor_parallel_size: int
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float
    uniform_from: float = 1.0
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    backend: str = "vllm"
    gpu_memory_utilization: float = InstanceLimits.gpu_memory_utilization
    receive_interval: int = 0
    cudagraph_mode: str = InstanceLimits.cudagraph_mode
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    speculation: Speculation | None = None
    popularity: Popularity = field(default_factory=Popularity)
    group: str = ""

    @property
    def known_backend(self) -> str:
        """The backend whose host times it has: its own where they are known, else vLLM."""
        return self.backend if self.backend in OTHER_BACKENDS else VLLM

    @property
    def instance(self) -> InstanceSpec:
        """The instance that was measured."""
        limits = InstanceLimits(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            kv_cache_dtype=self.kv_cache_dtype,
            gpu_memory_utilization=self.gpu_memory_utilization,
            cudagraph_mode=self.cudagraph_mode,
        )
        tensor, data = self.tensor_parallel_size, self.data_parallel_size
        shared = tensor * data if self.enable_expert_parallel else 1
        parallelism = Parallelism(tensor, self.pipeline_parallel_size, data, shared, experts=Experts(popularity=self.popularity))
        return InstanceSpec(self.model, self.device, parallelism, limits, speculation=self.speculation)

    def seen_s(self, ttft_s: Any, tpot_s: Any) -> Any:
        """TTFT with the time until the scheduler looks for new requests."""
        return ttft_s + 0.5 * self.receive_interval * tpot_s

    @property
    def output_tokens_per_s(self) -> float:
        """Throughput of the deployment by Little's law."""
        return self.throughput(self.ttft_s, self.tpot_s)

    def throughput(self, ttft_s: float, tpot_s: float) -> float:
        """Output tokens a second of a closed loop with these means, by Little's law."""
        tokens = self.output_tokens * (1.0 + self.uniform_from) / 2.0
        return self.concurrency * tokens / (ttft_s + tpot_s * (tokens - 1.0))


class SkippedRow(NamedTuple):
    """A row that simjax cannot simulate: its line in the file, its id, and the reason."""

    line: int
    id: str
    reason: str


class PointTable(NamedTuple):
    """The points of a table, the chosen rows that simjax cannot simulate, and the backends' versions, which it does not tell apart."""

    points: list[MeanPoint]
    left_out: list[SkippedRow]
    versions: tuple[str, ...] = ()


def read_points(
    path: str | Path,
    system: str | None = None,
    models: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    precision: str | None = None,
) -> PointTable:
    """Read a table of measured means.

    Args:
        path: the CSV file.
        system: device to keep, by any of its names; None for all.
        models: models to keep, by any of their names.
        backends: backends to keep.
        precision: "fp8", "bf16", ... to keep; rows that state none are bf16.

    Raises:
        SimjaxError: the file is missing or no such table, a value is malformed, or no row is chosen.
    """
    path = Path(path)
    frame = _chosen(path, _read(path), system, models, backends, precision)
    points, left_out = [], []
    versions = set(frame[VERSION]) - {""} if VERSION in frame else set[str]()
    for index, row in enumerate(frame.to_dict("records")):
        line = int(frame.index[index]) + 2  # pyright: ignore[reportArgumentType]
        row = {str(key): str(value) for key, value in row.items()}
        found = _point(row, f"{path}:{line}")
        if isinstance(found, MeanPoint):
            points.append(found)
        else:
            left_out.append(SkippedRow(line, row["id"], found))
    return PointTable(points, left_out, tuple(sorted(versions)))


def _read(path: Path) -> pd.DataFrame:
    wanted = {*NEEDED, *DEFAULTS, VERSION}
    try:
        frame = pd.read_csv(path, usecols=lambda c: c in wanted, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except FileNotFoundError:
        raise SimjaxError(f"{path}: no such table of measured points") from None
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be read ({error.strerror})") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SimjaxError(f"{path}: not a CSV table ({str(error).strip().splitlines()[-1]})") from None
    for column in NEEDED:
        if column not in frame:
            raise SimjaxError(f"{path}:1: column {column!r} is missing; a table of measured points has {', '.join(NEEDED)}")
    frame = frame.apply(lambda column: column.str.strip())
    frame = frame.loc[(frame != "").any(axis=1)]
    return frame.assign(**{name: value for name, value in DEFAULTS.items() if name not in frame})


def _chosen(
    path: Path,
    frame: pd.DataFrame,
    system: str | None,
    models: Sequence[str] | None,
    backends: Sequence[str] | None,
    precision: str | None,
) -> pd.DataFrame:
    """The rows that the arguments of `read_points` keep."""
    dtype: Callable[[str], str] = lambda name: "bf16" if name in UNQUANTIZED else name
    filters = (
        ("system", None if system is None else [system], _device_name),
        ("model_path", models, _model_name),
        ("backend", backends, str.lower),
        ("precision", None if precision is None else [precision], dtype),
    )
    for column, names, of in filters:
        if names is None:
            continue
        there = {text: of(text) for text in frame[column].unique()}
        for name in names:
            if of(name) not in there.values():
                raise SimjaxError(f"{path}: no row of {column} {name!r} is left; {closest(name, [x or 'none' for x in there])}")
        kept = {of(name) for name in names}
        frame = frame.loc[[there[text] in kept for text in frame[column]]]
    if frame.empty:
        raise SimjaxError(f"{path}: no rows")
    return frame


def _device_name(text: str) -> str:
    try:
        return load_device(text).name
    except SimjaxError:
        return text.lower()


def _model_name(text: str) -> str:
    try:
        return original(text).name
    except SimjaxError:
        return text.lower()


def _point(row: Mapping[str, str], where: str) -> MeanPoint | str:
    """The point of a row, or why simjax cannot simulate it."""
    if row["mode"] not in ("", "agg"):
        return f"mode {row['mode']}: only aggregated serving is simulated"
    precision = row["precision"].lower()
    try:
        device = load_device(row["system"])
        model = served(row["model_path"], precision, device)
    except SimjaxError as error:
        return str(error)
    if not row["ttft_ms"] or not row["tpot_ms"]:
        return "ttft_ms or tpot_ms is empty"
    degree, concurrency, prompt = (_whole(row, column, where) for column in ("true_tp", "concurrency", "isl"))
    expert, data, stages = (_whole(row, column, where, empty=1.0) for column in ("true_ep", "true_dp", "pp_size"))
    if expert not in (1, degree * data) or (expert > 1 and not model.is_moe):
        return f"expert parallelism {expert} of {degree * data} ranks: only experts shared by all ranks, or by none, are simulated"
    inferencex = row["source_kind"].startswith(INFERENCEX)
    budget, seqs = _limits(row, model.name, prompt, concurrency)
    others = [f" {x}{size}" for x, size in (("pp", stages), ("dp", data), ("ep", expert)) if size > 1]
    name = f"{model.name.rsplit('/', 1)[-1]} {'bf16' if precision in UNQUANTIZED else precision}"
    point = MeanPoint(
        id=row["id"],
        model=model,
        device=device,
        tensor_parallel_size=degree,
        concurrency=concurrency,
        prompt_tokens=prompt,
        output_tokens=_whole(row, "osl", where),
        ttft_s=1e-3 * _positive(row, "ttft_ms", where),
        tpot_s=1e-3 * _positive(row, "tpot_ms", where),
        uniform_from=INFERENCEX_UNIFORM_FROM if inferencex else 1.0,
        kv_cache_dtype=_kv_cache_dtype(row["backend"], precision, model, device),
        max_num_batched_tokens=budget,
        max_num_seqs=seqs,
        backend=row["backend"],
        gpu_memory_utilization=UTILIZATION if inferencex and row["backend"] != "trtllm" else InstanceLimits.gpu_memory_utilization,
        receive_interval=_receive_interval(row["backend"], concurrency, device) if inferencex else 0,
        cudagraph_mode=CUDAGRAPHS.get(row["backend"], MeanPoint.cudagraph_mode),
        pipeline_parallel_size=stages,
        data_parallel_size=data,
        enable_expert_parallel=expert > 1,
        group=f"{device.name} {row['backend']} {name} tp{degree}" + "".join(others),
    )
    try:
        point.instance.num_gpu_blocks  # noqa: B018  # refuses a model that does not fit, or cannot be divided so
    except SimjaxError as error:
        return str(error)
    return point


def _kv_cache_dtype(backend: str, precision: str, model: ModelSpec, device: DeviceSpec) -> str:
    """TensorRT-LLM keeps keys and values of quantised checkpoints in fp8; the other backends keep them in the model's type unless
    configured otherwise, as InferenceX's script for gpt-oss on Blackwell does for vLLM.

    The H100 rows show it: Qwen3-32B in fp8 on one of them held 64 requests of 4,352 tokens, 278 thousand, without a queue, and 64 of 4,608
    with one. In addition to its weights there is room for about 150 thousand tokens of 16 bits and 300 thousand of 8.
    """
    quantized = precision in ("fp8", "fp4")
    configured = model.model_type == "gpt_oss" and "fp4" in device.peak_flops
    return "fp8" if quantized and (backend == "trtllm" or configured) else "auto"


def _receive_interval(backend: str, concurrency: int, device: DeviceSpec) -> int:
    """InferenceX's scripts start SGLang on Blackwell with `--scheduler-recv-interval` 30 from 16 requests in flight on, else 10."""
    if backend != "sglang" or "fp4" not in device.peak_flops:
        return 0
    return 30 if concurrency >= 16 else 10


def _limits(row: Mapping[str, str], model: str, prompt: int, concurrency: int) -> tuple[int, int]:
    """Most tokens and most requests of a step, where the measurements reveal them.

    The rows of the gap analysis have constant lengths, so clients that start together stay together, and TTFT shows how many prompts
    share a step. With one prompt a step simulated TTFT has the same ratio to the measured one at all prompt lengths and concurrencies up
    to 64; with 8,192 tokens the ratio is twice as large at 1,024 prompt tokens as at 4,096. TTFT of its Llama-3.1-8B also grows by
    1/concurrency of the time of an answer: there one request always waits for a seat.
    """
    if not row["source_kind"].startswith(GAP_ANALYSIS):
        return MeanPoint.max_num_batched_tokens, max(MeanPoint.max_num_seqs, concurrency)
    full = row["backend"] == "trtllm" and row["precision"] == "" and model.endswith("Llama-3.1-8B")
    return prompt + concurrency, max(concurrency - full, 1)


def _number(row: Mapping[str, str], column: str, where: str, empty: float | None = None) -> float:
    text = row[column]
    if not text and empty is not None:
        return empty
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SimjaxError(f"{where}: {column} must be a number, found {text!r}")
    return value


def _positive(row: Mapping[str, str], column: str, where: str) -> float:
    if (value := _number(row, column, where)) <= 0:
        raise SimjaxError(f"{where}: {column} must be positive, found {row[column]!r}")
    return value


def _whole(row: Mapping[str, str], column: str, where: str, empty: float | None = None) -> int:
    """A positive whole number; where an empty cell has a meaning, 0 has it too, as some tables write it."""
    value = _number(row, column, where, empty)
    if empty is not None and value == 0:
        return int(empty)
    if value < 1 or value != int(value):
        raise SimjaxError(f"{where}: {column} must be a positive whole number, found {row[column]!r}")
    return int(value)
