"""Read a profile bundle of LLMServingSim 2.0: kernel times of one model on one device, measured layer by layer inside vLLM.

A bundle is ROOT/<device>/<org>/<model>/<variant>/ with `meta.yaml` and one folder tpN per profiled tensor-parallel degree: `dense.csv`
(layer, tokens, time_us), `per_sequence.csv` (layer, sequences, time_us), `attention.csv` (prefill_chunk, kv_prefill, n_decode,
kv_decode, time_us), `skew.csv` (decodes of unequal length; its times are sums over `measurement_iterations` runs, where the others are
means) and, for mixture-of-experts models and only in tp1, `moe.csv` (tokens, activated_experts, time_us). All times here are seconds of
one kernel in one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from simjax.errors import SimjaxError, closest
from simjax.latency.attention.fit import AttentionPoints

if TYPE_CHECKING:
    import pandas as pd

ATTENTION = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
MOE = ("tokens", "activated_experts", "time_us")
SKEW = ("n", "nb", "pc", "kp", "kvs", "kv_big", "t_mean_us", "t_max_us", "t_skew_us")
PROLOGUE = ("embedding",)
LAYER = ("layernorm", "qkv_proj", "qk_norm", "rotary_emb", "attention", "o_proj", "layernorm")
DENSE_MLP = ("gate_up_proj", "act_fn", "down_proj")
HEAD = ("final_layernorm",)
PER_SEQUENCE = ("lm_head", "sampler")
OPTIONAL = ("qk_norm", "rotary_emb", "attention")


class Curve(NamedTuple):
    """A measured kernel: size (tokens or sequences, increasing) and seconds."""

    size: np.ndarray
    seconds: np.ndarray


class MoePoints(NamedTuple):
    """Measured expert kernels: tokens on the rank, distinct experts activated, seconds."""

    tokens: np.ndarray
    activated: np.ndarray
    seconds: np.ndarray


class SkewPoints(NamedTuple):
    """Decode batches of two lengths: `many` of `decodes` sequences have context `longest`, the others `shortest`.

    chunk, chunk_kv: the prefill chunk in the same step (0: none). mean_s, longest_s, skewed_s: seconds with all contexts at the (integer)
    mean, all at the longest, and as described.
    """

    decodes: np.ndarray
    many: np.ndarray
    chunk: np.ndarray
    chunk_kv: np.ndarray
    shortest: np.ndarray
    longest: np.ndarray
    mean_s: np.ndarray
    longest_s: np.ndarray
    skewed_s: np.ndarray


@dataclass(frozen=True)
class Bundle:
    """One tpN folder of a bundle. `moe` is None for dense models, `skew` when the bundle has no skew.csv."""

    path: Path
    meta: dict[str, Any]
    tensor_parallel_size: int
    dense: dict[str, Curve]
    per_sequence: dict[str, Curve]
    attention: AttentionPoints
    moe: MoePoints | None
    skew: SkewPoints | None


@dataclass(frozen=True)
class OpSequence:
    """Operators of a step in order: once before the layers, in every layer (`attention`, `moe` among them), once after it, per sequence."""

    prologue: tuple[str, ...]
    layer: tuple[str, ...]
    head: tuple[str, ...]
    per_sequence: tuple[str, ...]


def find_bundle(root: Path, device: str | Sequence[str], model: str | Sequence[str], variant: str, tensor_parallel_size: int) -> Path:
    """The tpN folder of ROOT/<device>/<org>/<model>/<variant>/tpN.

    device and model may be several names of the same thing; case, spaces, dashes and dots do not count, nor the organisation before a
    model's name.
    Raises SimjaxError, which lists the nearest existing names.
    """
    device_dir = _match(root, device, {p.name: p for p in sorted(root.iterdir()) if p.is_dir()} if root.is_dir() else {}, "device")
    models = {f"{p.parent.name}/{p.name}": p for p in sorted(device_dir.glob("*/*")) if any(p.glob("*/meta.yaml"))}
    model_dir = _match(device_dir, model, models, "model")
    variant_dir = _match(model_dir, variant, {p.parent.name: p.parent for p in sorted(model_dir.glob("*/meta.yaml"))}, "variant")
    degrees = sorted(int(p.name[2:]) for p in variant_dir.glob("tp*") if p.name[2:].isdecimal())
    if tensor_parallel_size not in degrees:
        raise SimjaxError(
            f"{variant_dir}: tensor_parallel_size {tensor_parallel_size} was not profiled (profiled: {', '.join(map(str, degrees))}); "
            "choose one of those or a roofline profile"
        )
    return variant_dir / f"tp{tensor_parallel_size}"


def bundles_of(root: Path, device: Sequence[str], variant: str) -> list[Path]:
    """The folders of all bundles of a device, by any of its names: ROOT/<device>/<org>/<model>/<variant>; empty when there are none."""
    wanted = [_plain(name) for name in device]
    folders = [path for path in sorted(root.iterdir()) if _plain(path.name) in wanted] if root.is_dir() else []
    return [meta.parent for folder in folders for meta in sorted(folder.glob(f"*/*/{variant}/meta.yaml"))]


def contents(path: Path) -> list[bytes]:
    """Everything that `read_bundle` reads for one tpN folder: names and contents of files, those that are missing left out."""
    files = sorted({path.parent / "meta.yaml", *path.glob("*.csv"), *(path.parent / "tp1").glob("*.csv")})
    return [part for file in files if file.is_file() for part in (str(file.relative_to(path.parent)).encode(), file.read_bytes())]


def read_bundle(path: Path) -> Bundle:
    """Read one tpN folder. Raises SimjaxError, with file and line, for a missing file, column or malformed number."""
    if not (path.name.startswith("tp") and path.name[2:].isdecimal()):
        raise SimjaxError(f"{path}: not a tpN folder of a profile bundle")
    meta = _read_meta(path.parent / "meta.yaml")
    first = path.parent / "tp1"
    dense = _read_curves(path / "dense.csv", "tokens")
    if first != path and (first / "dense.csv").exists():  # layers that tensor parallelism leaves alone may be profiled once
        dense = _read_curves(first / "dense.csv", "tokens") | dense
    points = _read_csv(path / "attention.csv", ATTENTION)
    moe = _read_csv(first / "moe.csv", MOE) if (first / "moe.csv").exists() else None
    skew = _read_csv(path / "skew.csv", SKEW) if (path / "skew.csv").exists() else None
    runs = float(meta.get("measurement_iterations", 3))
    return Bundle(
        path=path,
        meta=meta,
        tensor_parallel_size=int(path.name[2:]),
        dense=dense,
        per_sequence=_read_curves(path / "per_sequence.csv", "sequences"),
        attention=AttentionPoints(*_columns(points, ATTENTION, 1e-6)),
        moe=None if moe is None else MoePoints(*_columns(moe, MOE, 1e-6)),
        skew=None if skew is None else SkewPoints(*_columns(skew, SKEW, 1e-6 / runs)),
    )


def op_sequence(bundle: Bundle) -> OpSequence:
    """The operators of a step, from the layers that the bundle has: a Llama-like model, with or without qk_norm, dense or with experts."""
    known = {*PROLOGUE, *LAYER, *DENSE_MLP, *HEAD}
    for name in bundle.dense:
        if name not in known:
            raise SimjaxError(f"{bundle.path / 'dense.csv'}: unknown layer {name!r} ({closest(name, sorted(known))})")
    mlp = DENSE_MLP if bundle.moe is None else ("moe",)
    layer = tuple(op for op in LAYER if op not in OPTIONAL or op == "attention" or op in bundle.dense)
    for op in (*PROLOGUE, *layer, *mlp, *HEAD):
        if op not in ("attention", "moe") and op not in bundle.dense:
            raise SimjaxError(f"{bundle.path / 'dense.csv'}: layer {op!r} is missing")
    for op in PER_SEQUENCE:
        if op not in bundle.per_sequence:
            raise SimjaxError(f"{bundle.path / 'per_sequence.csv'}: layer {op!r} is missing")
    return OpSequence(PROLOGUE, layer + mlp, HEAD, PER_SEQUENCE)


def _match(place: Path, wanted: str | Sequence[str], known: dict[str, Path], what: str) -> Path:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    keys = {alias: path for name, path in known.items() for alias in (_plain(name), _plain(name.rsplit("/", 1)[-1]))}
    for name in names:
        for alias in (_plain(name), _plain(name.rsplit("/", 1)[-1])):
            if alias in keys:
                return keys[alias]
    exists = closest(names[0], list(known)) if known else "there is none"
    raise SimjaxError(f"{place}: no profile of {what} {names[0]!r} ({exists})")


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum() or c == "/")


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SimjaxError(f"{path}: file not found; a profile bundle needs it") from None
    except OSError as error:
        raise SimjaxError(f"{path}: cannot read it: {error.strerror}") from None
    except RecursionError:
        raise SimjaxError(f"{path}: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, a date that is none
        raise SimjaxError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(meta, dict):
        raise SimjaxError(f"{path}: expected a mapping")
    return meta


def _read_curves(path: Path, size: str) -> dict[str, Curve]:
    frame = _read_csv(path, (size, "time_us"), label="layer").sort_values(["layer", size])
    return {
        str(name): Curve(part[size].to_numpy(float), part["time_us"].to_numpy(float) * 1e-6)
        for name, part in frame.groupby("layer", sort=False)
    }


def _columns(frame: pd.DataFrame, names: Sequence[str], unit: float) -> list[np.ndarray]:
    """Columns as f64; times (`*_us`) times `unit`."""
    return [frame[name].to_numpy(float) * (unit if name.endswith("_us") else 1.0) for name in names]


def _read_csv(path: Path, numbers: Sequence[str], label: str | None = None) -> pd.DataFrame:
    """The columns `label` (text) and `numbers` (non-negative, finite; times positive) of a CSV file."""
    import pandas as pd  # here, not at the top: profiles need none

    wanted = [*([label] if label else []), *numbers]
    try:
        text = pd.read_csv(path, usecols=lambda c: c in wanted, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except FileNotFoundError:
        raise SimjaxError(f"{path}: file not found; a profile bundle needs it") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SimjaxError(f"{path}: not a CSV table ({str(error).strip().splitlines()[-1]})") from None
    for column in wanted:
        if column not in text:
            raise SimjaxError(f"{path}:1: column {column!r} is missing")
    text = text.loc[(text != "").any(axis=1)]
    if text.empty:
        raise SimjaxError(f"{path}: no rows")
    columns = {column: _numbers(path, text[column], positive=column.endswith("_us")) for column in numbers}
    return pd.DataFrame({label: text[label].to_numpy(), **columns} if label else columns)


def _numbers(path: Path, text: pd.Series, positive: bool) -> np.ndarray:
    import pandas as pd

    values = np.asarray(pd.to_numeric(text, errors="coerce"), dtype=float)
    good = np.isfinite(values) & ((values > 0.0) if positive else (values >= 0.0))
    if not good.all():
        first = int(np.argmin(good))
        kind = "positive" if positive else "non-negative"
        raise SimjaxError(f"{path}:{int(text.index[first]) + 2}: {text.name} must be a {kind} number, found {text.iloc[first]!r}")
    return values
