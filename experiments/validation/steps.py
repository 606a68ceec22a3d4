"""Measured against predicted step times, along the measured schedule.

results/steps.tsv: by kind of step, the total error of the prediction and its root mean square error per step; for the step times of simjax
and for variants. results/batches.tsv: by number of sequences and by scheduled tokens. results/h100.tsv: decode-only steps of Qwen3-14B as
clients saw them, against the shipped profile. results/hits.tsv: whether prompts were found in the cache. step_times.png: lateness of every
pure interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from cases import HERE, ON_H100, TABLES, WITH_TABLES, Row, Setup, setup, timing_of, write
from clock import Work
from guided import CAPTURED, Guided, Interval, follow, last_leavers, single_steps
from replay import Timing

from simjax.latency.attention.fit import fit_decode_skew
from simjax.latency.step_time import StepTime
from simjax.latency.tables.bundle import Bundle, find_bundle, read_bundle
from simjax.plot.style import BLUE, RUST, dress, new_figure

Variant = Callable[[Work], float]
ONE_CHUNK, LEVEL, BY_BATCH = "all chunks as one", "decodes at the mean context", "skew as measured for the batch"
BATCHES = (0, 1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 256)
SCHEDULED = (1, 512, 640, 768, 896, 1024, 1280, 1536, 2047, 2048)


def variants(ready: Setup) -> dict[str, Variant]:
    """Step times: those of simjax, and those with one rule changed."""
    step_time, spec = ready.timings.step_time, ready.cluster.instances[0]
    timing, tokens_s, sequences_s = timing_of(step_time), np.asarray(step_time.tokens_s[0]), np.asarray(step_time.sequences_s[0])
    names = (spec.device.name, *spec.device.aliases)
    bundle = read_bundle(find_bundle(TABLES, names, spec.model.name, "bf16", spec.parallelism.tensor))
    grid = bundle.dense["qkv_proj"].size.astype(int)
    captured = CAPTURED[: np.searchsorted(CAPTURED, 2 * ready.limits.max_num_seqs, side="right")]

    def scheduled_as(sizes: np.ndarray, work: Work) -> float:
        tokens = sum(new for new, _ in work)
        return timing(work) + (tokens_s[sizes[np.searchsorted(sizes, tokens)]] - tokens_s[tokens] if tokens <= sizes[-1] else 0.0)

    def one_chunk(work: Work) -> float:
        chunks = [x for x in work if x[0] > 1]
        if len(chunks) < 2:
            return timing(work)
        queries = sum(new for new, _ in chunks)
        merged = [(queries, round(sum(new * computed for new, computed in chunks) / queries)), *(x for x in work if x[0] == 1)]
        return timing(merged) + sequences_s[len(work)] - sequences_s[len(merged)]

    return {
        "as it is": timing,
        "batch padded to the CUDA graph's": lambda work: scheduled_as(captured, work),
        "matrices of the next measured size": lambda work: scheduled_as(grid, work),
        ONE_CHUNK: one_chunk,
        LEVEL: skewed(step_time, lambda sequences: 0.0),
        BY_BATCH: skewed(step_time, skew_by_batch(bundle)),
    }


def skewed(step_time: StepTime, of_batch: Callable[[int], float]) -> Variant:
    """Step times with the given `decode_skew` as a function of the number of sequences."""
    timed: dict[float, Timing] = {}

    def timing(work: Work) -> float:
        skew = round(of_batch(len(work)), 4)
        if skew not in timed:
            with jax.enable_x64(True):
                changed = replace(step_time.attention, decode_skew=jnp.full(1, skew))
            timed[skew] = timing_of(replace(step_time, attention=changed))
        return timed[skew](work)

    return timing


def skew_by_batch(bundle: Bundle) -> Callable[[int], float]:
    """`decode_skew` as measured for each number of sequences, interpolated linearly; simjax has one number for all."""
    points = bundle.skew
    assert points is not None
    sizes = np.unique(points.decodes)
    fits = []
    for size in sizes:
        of = (points.chunk == 0) & (points.decodes == size)
        fits.append(fit_decode_skew(points.mean_s[of], points.longest_s[of], points.skewed_s[of]))
    return lambda sequences: float(np.interp(sequences, sizes, fits))


def by_variant(ready: Setup, guided: Guided) -> list[Row]:
    rows: list[Row] = []
    chunks = guided.done.steps.array("chunks")
    kinds = ("decode only", "one chunk", "several chunks")
    for kind, name in enumerate(kinds):
        parts = [part for part in guided.intervals if part.pure and min(chunks[part.first], 2) == kind]
        steps, measured_s = (np.array([getattr(part, x) for part in parts]) for x in ("steps", "measured_s"))
        for label, timing in variants(ready).items():
            if label in ((ONE_CHUNK,), (ONE_CHUNK, LEVEL, BY_BATCH), (LEVEL, BY_BATCH))[kind]:
                continue  # changes nothing there
            predicted_s = np.array([sum(timing(guided.done.steps.work[at]) for at in range(part.first, part.last + 1)) for part in parts])
            off_s = (predicted_s - measured_s) / steps
            rows.append(
                {
                    "run": ready.case.name,
                    "steps": name,
                    "step time": label,
                    "count": int(steps.sum()),
                    "off, %": 100.0 * float(predicted_s.sum() / measured_s.sum() - 1.0),
                    "rms, ms": 1e3 * float(np.sqrt((steps * off_s**2).sum() / steps.sum())),
                }
            )
    return rows


def by_batch(ready: Setup, guided: Guided, timing: Variant) -> list[Row]:
    """Lateness of decode-only steps by sequences (those of the last leavers, if any) and of mixed steps by tokens."""
    rows: list[Row] = []
    leavers = last_leavers(ready, guided.done, timing)
    decodes = leavers if len(leavers) else single_steps(guided.done, guided.intervals, mixed=False)
    chunks = single_steps(guided.done, guided.intervals, mixed=True)
    for points, edges, name in ((decodes, BATCHES, "decode, sequences"), (chunks, SCHEDULED, "with a chunk, tokens")):
        for low, high in pairwise(edges):
            part = points[(points[:, 0] > low) & (points[:, 0] <= high)]
            if not len(part):
                continue
            steps = part[:, 3]
            late, predicted_s = ((part[:, at] * steps).sum() / steps.sum() for at in (1, 2))
            numbers = {"count": int(steps.sum()), "measured, ms": 1e3 * float(predicted_s + late), "late, ms": 1e3 * float(late)}
            rows.append(
                {"run": ready.case.name, "steps": f"{name} {low + 1}-{high}", **numbers, "late, %": 100.0 * float(late / predicted_s)}
            )
    return rows


def found_in_cache(ready: Setup) -> list[Row]:
    """Predicted times of single mixed steps with and without prefix caching, separately for steps that would admit a request with hits.

    Shows whether there were hits, for the run whose schedule is the same either way.
    """
    rows: list[Row] = []
    on = follow(ready)
    hits, admitting = on.done.hit_tokens, on.done.first_step
    with_hit = set(admitting[hits > 0].tolist())
    off = follow(ready, caching=False)
    end_on = {round(end, 6): at for at, end in enumerate(on.done.steps.end_s)}
    for name, guided in (("on", on), ("off", off)):
        kinds: dict[bool, list[Interval]] = {True: [], False: []}
        for part in guided.intervals:
            at = end_on.get(round(guided.done.steps.end_s[part.last], 6))
            if at is not None and part.pure and part.mixed:
                kinds[at in with_hit].append(part)
        for kind, parts in kinds.items():
            ratio = np.median([part.predicted_s / part.measured_s for part in parts])
            label = "with hits" if kind else "without hits"
            row = {"run": ready.case.name, "steps": label, "caching": name, "count": len(parts), "off, %": 100.0 * float(ratio - 1.0)}
            rows.append(row)
    return rows


def as_clients_saw() -> list[Row]:
    """Gaps between chunks of Qwen3-14B on one H100 by requests in flight, against the predicted time of such a step."""
    case = ON_H100[0]
    ready = setup(case, tables=False)
    timing, run = timing_of(ready.timings.step_time), ready.run
    chunk = pd.read_csv(case.path / "trace.itl.csv.gz").sort_values(["request_id", "chunk_index"])
    time_s = chunk["timestamp_us"].to_numpy(np.float64) * 1e-6
    new = chunk["request_id"].to_numpy()[1:] != chunk["request_id"].to_numpy()[:-1]
    gap_s, at_s = np.diff(time_s)[~new], time_s[1:][~new]
    start_s = pd.read_csv(case.path / "trace.csv.gz")["first_chunk_time_us"].min() * 1e-6 - run.ttft_s[0]
    first, last = np.sort(run.arrival_s + run.ttft_s + start_s), np.sort(run.arrival_s + run.e2e_s + start_s)
    running = np.searchsorted(first, at_s - gap_s - 1e-4) - np.searchsorted(last, at_s - 1e-4)
    rows: list[Row] = []
    context = int(run.prompt_tokens.mean() + run.output_tokens.mean() / 2)
    for n in (1, 2, 4, 8):
        seen = gap_s[(running == n) & (gap_s > 5e-3) & (gap_s < 20e-3)]
        measured_s, predicted_s = float(np.median(seen)), timing([(1, context)] * n)
        rows.append(
            {"steps": f"decode, {n} sequences", "count": len(seen), "measured, ms": 1e3 * measured_s, "predicted, ms": 1e3 * predicted_s}
        )
    seen = gap_s[(gap_s > 30e-3) & (gap_s < 55e-3)]
    predicted_s = timing([(int(run.prompt_tokens.mean()), 0)] + [(1, context)] * 3)
    rows.append(
        {"steps": "with a prompt", "count": len(seen), "measured, ms": 1e3 * float(np.median(seen)), "predicted, ms": 1e3 * predicted_s}
    )
    return [{**row, "off, %": 100.0 * (float(row["predicted, ms"]) / float(row["measured, ms"]) - 1.0)} for row in rows]


def draw(points: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw lateness against sequences and against scheduled tokens, with a row of panels for each run."""
    figure = new_figure(10.5, 2.7 * len(points), "How much longer a step took than its kernels' measured times")
    panels = figure.subplots(len(points), 2, squeeze=False)
    for (name, (decodes, chunks)), (left, right) in zip(points.items(), panels, strict=True):
        for axes, data, colour, label in ((left, decodes, BLUE, "sequences"), (right, chunks, RUST, "scheduled tokens")):
            axes.axhline(0.0, color="#9a9a9a", linewidth=0.8)
            axes.scatter(data[:, 0], 1e3 * data[:, 1], s=7, color=colour, linewidths=0, alpha=0.7)
            kind = "decode-only steps" if axes is left else "steps with a chunk"
            dress(axes, f"{name}: {kind}", label, "ms")
            axes.set_xticks(
                range(0, 129, 16) if axes is left and data[:, 0].max() > 64 else range(0, 65, 8) if axes is left else range(0, 2049, 256)
            )
    figure.savefig(HERE / "step_times.png", dpi=110)


def main() -> None:
    tables: dict[str, list[Row]] = {"steps": [], "batches": [], "hits": []}
    points = {}
    for case in WITH_TABLES:
        ready = setup(case)
        guided, timing = follow(ready), timing_of(ready.timings.step_time)
        tables["steps"] += by_variant(ready, guided)
        tables["batches"] += by_batch(ready, guided, timing)
        if not case.by_count:
            tables["hits"] += found_in_cache(ready)
        leavers, decodes = last_leavers(ready, guided.done, timing), single_steps(guided.done, guided.intervals, mixed=False)
        points[case.name] = (np.concatenate([leavers, decodes]), single_steps(guided.done, guided.intervals, mixed=True))
    tables["h100"] = as_clients_saw()
    for name, rows in tables.items():
        write(name, rows)
        print()
    draw(points)


if __name__ == "__main__":
    main()
