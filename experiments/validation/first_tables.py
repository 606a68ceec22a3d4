"""Kernel tables of LLMServingSim's first version (`layers.csv` in ns, `attention.csv` in ms) as a bundle that simjax reads.

The first version measured every projection alone: those of one matrix product in vLLM are added (q, k and v; gate and up). It has no
sampler, and attention either of one prefill chunk or of decodes whose contexts it gives in total: a step with both takes the sum of the
two kernels. Decodes are read at equal contexts; chunks beyond the longest measured one are continued by the ratio of the attention column
of `layers.csv`.

Parts of the tables can be replaced by estimates, because the kernels measured are not those of vLLM (`PARTS`).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from simjax.cluster.latency_source import LatencySource
from simjax.deployment import Deployment
from simjax.latency.attention.coefficients import decode_attention_s, mixed_attention_s
from simjax.latency.attention.fit import AttentionPoints, chunks_of, decodes_of
from simjax.latency.profiles.compile import all_layers_attention, total_s
from simjax.latency.profiles.profile import LatencyProfile
from simjax.model.ops import step_ops

SUMS = {
    "embedding": ("embedding",),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "rotary_emb": ("rope",),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "act_fn": ("act_fn",),
    "down_proj": ("down_proj",),
    "final_layernorm": ("final_layernorm",),
}
NORMS = ("input_layernorm", "post_layernorm")  # two of a layer, under one name in a bundle
DECODES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128)
CONTEXTS = (16, 32, 64, 128, 256, 512, 1024, 2048)
CHUNKS = (1024, 1280, 1536, 2048)  # from the longest measured one on
MIXED = 5  # every so many prefills and decodes are written together, too
LEAST_US = 1e-3  # of what was not measured
PARTS = {
    "attention": "its decodes read the keys and values once for each of the query heads that share them",
    "elementwise": "norms, rotary embedding and activation are several kernels each, of 16 us for the norm of one token; no sampler",
}
"""Parts of a step that can be estimated, and what is wrong with their tables."""


def write_bundle(
    measured: Path,
    root: Path,
    names: tuple[str, str],
    estimated: Collection[str] = (),
    deployment: Deployment | None = None,
    source: LatencySource | None = None,
) -> None:
    """Write the tables in the folder `measured` (a tpN) below `root`, where `profile.bundle_root` finds them.

    Args:
        measured: the tables of the first version.
        root: folder for the bundle.
        names: device and model, as the bundle's folders are called.
        estimated: those of `PARTS` to take from a profile instead of the tables.
        deployment: deployment whose profile that is.
        source: source of the profile; the shipped profiles when None.
    """
    device, model = names
    folder = root / device / model / "bf16" / measured.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "meta.yaml").write_text(f"gpu: {device}\nmodel: {model}\nvariant: bf16\n")
    layers = pd.read_csv(measured / "layers.csv").pivot_table(index="input", columns="layer_name", values="latency(ns)") / 1e3
    dense = {name: layers[list(parts)].sum(axis=1) for name, parts in SUMS.items()} | {"layernorm": layers[list(NORMS)].mean(axis=1)}
    head = {"lm_head": layers["lm_head"], "sampler": pd.Series(LEAST_US, index=layers.index)}
    attention = pd.read_csv(measured / "attention.csv")
    prefills, decodes = _prefills(attention[attention.is_prefill], layers["attn"]), _decodes(attention[~attention.is_prefill])
    together = [(*one[:2], *other[2:4], one[4] + other[4]) for one in prefills[::MIXED] for other in decodes[::MIXED]]
    rows = [*prefills, *decodes, *together]
    if estimated:
        assert deployment is not None
        profile = (source or LatencySource()).profile_of(deployment)
        if "attention" in estimated:
            rows = [(*row[:4], us) for row, us in zip(rows, _attention_us(profile, deployment, rows), strict=True)]
        if "elementwise" in estimated:
            found = _elementwise_us(profile, deployment, layers.index)
            dense |= {name: us for name, us in found.items() if name in dense}
            head |= {name: us for name, us in found.items() if name in head}
    _write(folder / "dense.csv", "tokens", dense)
    _write(folder / "per_sequence.csv", "sequences", {name: curve[:256] for name, curve in head.items()})
    columns = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "attention.csv", index=False)


def _write(path: Path, size: str, curves: dict[str, pd.Series]) -> None:
    rows = [(name, int(at), float(us)) for name, curve in curves.items() for at, us in curve.items()]
    pd.DataFrame(rows, columns=["layer", size, "time_us"]).to_csv(path, index=False)


def _prefills(measured: pd.DataFrame, whole: pd.Series) -> list[tuple[float, ...]]:
    """Chunks on top of what came before them: `kv_cache_size` counts the chunk too."""
    points = measured.groupby(["prefill_chunk_size", "kv_cache_size"])["time_stats.attn_prefill.median"].median() * 1e3
    rows = [(chunk, kv - chunk, 0, 0, us) for (chunk, kv), us in points.items()]
    last = max(chunk for chunk, *_ in rows)
    longest = next(us for chunk, before, _, _, us in rows if chunk == last and before == 0)
    return rows + [(chunk, 0, 0, 0, longest * whole[chunk] / whole[last]) for chunk in CHUNKS if chunk > last]


def _decodes(measured: pd.DataFrame) -> list[tuple[float, ...]]:
    """Decodes at equal contexts. The more decodes, the fewer tokens were measured with them; further tokens cost what they do for the most
    decodes that were measured with as many (from 4 decodes on, that depends on their total alone)."""
    points = (measured.groupby(["batch_size", "kv_cache_size"])["time_stats.attn_decode.median"].median() * 1e3).reset_index()
    points.columns = ["n", "total", "us"]
    most = points.sort_values("n").groupby("total").last().us
    beyond = lambda total: np.interp(total, most.index, most.to_numpy())
    rows = []
    for n in DECODES:
        of = points[points.n == n].sort_values("total")
        for context in CONTEXTS:
            total = n * context
            within = min(total, of.total.iloc[-1])
            rows.append((0, 0, n, context, float(np.interp(within, of.total, of.us) + beyond(total) - beyond(within))))
    return rows


def _attention_us(profile: LatencyProfile, deployment: Deployment, rows: list[tuple[float, ...]]) -> np.ndarray:
    """Attention of one layer at the same points by the coefficients of a profile."""
    a = all_layers_attention(profile.rank(deployment.parallelism.tensor, deployment.model), deployment)
    points = AttentionPoints(*(np.array(column, float) for column in zip(*rows, strict=True)))
    chunks, decodes = chunks_of(points), decodes_of(points)
    seconds = np.where(points.chunk > 0, mixed_attention_s(a, chunks, decodes, np), decode_attention_s(a, decodes, np))
    return 1e6 * seconds / deployment.model.num_hidden_layers


def _elementwise_us(profile: LatencyProfile, deployment: Deployment, sizes: pd.Index) -> dict[str, pd.Series]:
    """Each operation other than matrix products, once, by the efficiencies of a profile."""
    model, degree = deployment.model, deployment.parallelism.tensor
    rank, rows = profile.rank(degree, model), sizes.to_numpy()
    seconds = lambda op: total_s([op], rank, profile.source, deployment.device, model.dtype, rows, np) / op.count
    return {op.name: pd.Series(1e6 * seconds(op), index=sizes) for op in step_ops(model, degree) if not op.is_gemm}
