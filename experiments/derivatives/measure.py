"""The derivatives of simjax against the slope of long runs, at ordinary load.

    python experiments/derivatives/measure.py        # writes results/derivatives.tsv and the table of README.md

For each rate and number, d log(metric) / d log(number):

- reference: least-squares slope of the metric's logarithm over POINTS simulations within ± WITHIN, mean over long runs with other requests
  than all the rest, and its standard error;
- total: `simjax.total` with its default step, mean over SEEDS runs of ordinary length, and the standard deviation of one of them;
- pathwise: `jax.jacfwd` of `simjax.simulate`, of the same runs.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import simjax

HERE = Path(__file__).parent
RATES = (4, 8)
NUMBERS = ("gemm_bandwidth", "rate")
METRICS = ("ttft_mean_s", "tpot_mean_s", "e2e_mean_s")
POINTS, WITHIN = 11, 0.02
LONG, LONG_SEEDS = 8_000, (100, 101, 102, 103)
ORDINARY, SEEDS = 4_000, (0, 1, 2, 3)


def system(rate: float, requests: int, seed: int) -> simjax.System:
    """A run of the default model and device."""
    options = [f"workload.rate={rate}", f"workload.num_requests={requests}", f"workload.seed={seed}"]
    return simjax.prepare(simjax.compose(options))


def logs(system: simjax.System, x: dict[str, Any]) -> jax.Array:
    """The logarithms of the metrics, float64[M]."""
    metrics = simjax.simulate(system.with_values(**x))
    return jnp.log(jnp.stack([metrics[name] for name in METRICS]))


@jax.jit
def slopes(system: simjax.System) -> jax.Array:
    """The reference of one long run, float64[numbers, metrics]."""
    change = jnp.linspace(-WITHIN, WITHIN, POINTS)
    found = []
    for moved in NUMBERS:
        at = {name: 1.0 + change * (name == moved) for name in NUMBERS}
        y = jax.vmap(partial(logs, system))(at)
        x = jnp.log1p(change) - jnp.mean(jnp.log1p(change))
        found.append(x @ y / jnp.sum(x * x))
    return jnp.stack(found)


@jax.jit
def totals(system: simjax.System) -> jax.Array:
    """Total derivatives of one run, float64[numbers, metrics]; at 1 a derivative is that by the logarithm."""
    one = {name: jnp.ones(()) for name in NUMBERS}
    by = jax.jacfwd(simjax.total(partial(logs, system)))(one)
    return jnp.stack([by[name] for name in NUMBERS])


@jax.jit
def pathwises(system: simjax.System) -> jax.Array:
    """Pathwise derivatives of one run, float64[numbers, metrics]; NaN where there is none."""
    one = {name: jnp.ones(()) for name in NUMBERS if name != "rate"}
    by = jax.jacfwd(partial(logs, system))(one)
    return jnp.stack([by.get(name, jnp.full(len(METRICS), jnp.nan)) for name in NUMBERS])


def measured(rate: float) -> pd.DataFrame:
    """The rows of one rate."""
    began = time.perf_counter()
    long = np.stack([slopes(system(rate, LONG, seed)) for seed in LONG_SEEDS])
    ordinary = [system(rate, ORDINARY, seed) for seed in SEEDS]
    total, pathwise = (np.stack([of(x) for x in ordinary]) for of in (totals, pathwises))
    rows = []
    print(f"{rate} requests/s: {time.perf_counter() - began:.0f} s", flush=True)
    for i, number in enumerate(NUMBERS):
        for m, metric in enumerate(METRICS):
            reference, error = long[:, i, m].mean(), long[:, i, m].std(ddof=1) / np.sqrt(len(long))
            row = {"rate": rate, "number": number, "metric": metric, "reference": reference, "standard_error": error}
            row |= {"total": total[:, i, m].mean(), "total_sd": total[:, i, m].std(ddof=1), "pathwise": pathwise[:, i, m].mean()}
            row |= {"total_over_reference": row["total"] / reference, "pathwise_over_reference": row["pathwise"] / reference}
            rows.append(row)
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> str:
    """The table of README.md."""
    lines = ["| req/s | number | metric | long runs | total | pathwise | total / long | pathwise / long |"]
    lines.append("|---:|---|---|---:|---:|---:|---:|---:|")
    for x in found.to_dict("records"):
        held = ("-", "-") if np.isnan(x["pathwise"]) else (f"{x['pathwise']:+.3f}", f"{x['pathwise_over_reference']:.2f}")
        numbers = f"{x['reference']:+.3f} ± {x['standard_error']:.3f} | {x['total']:+.3f} ± {x['total_sd']:.3f} | {held[0]}"
        lines.append(f"| {x['rate']} | `{x['number']}` | `{x['metric']}` | {numbers} | {x['total_over_reference']:.2f} | {held[1]} |")
    return "\n".join(lines)


def written(path: Path, text: str) -> None:
    """Put a text between the marks of a page."""
    page = path.read_text(encoding="utf-8")
    before, rest = page.split("<!-- table -->\n")
    path.write_text(f"{before}<!-- table -->\n{text}\n<!-- /table -->{rest.split('<!-- /table -->')[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "derivatives.tsv", help="the table to write")
    out = parser.parse_args().out
    jax.config.update("jax_enable_x64", True)
    found = pd.concat([measured(rate) for rate in RATES])
    out.parent.mkdir(parents=True, exist_ok=True)
    found.to_csv(out, sep="\t", index=False, float_format="%.5f")
    print(table(found))
    written(HERE / "README.md", table(found))


if __name__ == "__main__":
    main()
