"""How far a calibration carries: profiles fitted to one run, and what they say of runs that the fit did not see.

Parts, by name on the command line (all of them when none is given):

- `load`: Qwen3-14B on H100, fitted at 2 req/s; other loads and lengths of that deployment (`agg_6rps`, `w7_agg12`).
- `both`: fitted at 2 and 6 req/s; `w7_agg12`.
- `model`: Llama-2-7B on H100; Mixtral-8x7B on two of them. Seconds of the fit, and how many parameters ended at a bound.
- `tables`: RTX PRO 6000 and RTX 4090 from their op tables, with the traces that were replayed and no fit.
- `intervals`: 90 % intervals of the held-out statistics under the profile of `load`: their half-widths, and how many hold the measurement.

Prints a line a figure, `figure<TAB>value`; errors are 100 (simulated - measured) / measured.

usage: python generalise.py [PART ...]    (SIMJAX_DATA: folder of the measured runs; each fit takes one to three minutes)
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from calibration import FAST, SLOW, Study, calibrated, coverage_of
from cases import WITH_TABLES
from errors import of

from simjax.calibrate.job import HELD_OUT, Calibrated, Scored
from simjax.validate.compare import COMPARED, METRICS

MIXED = "vllm_qwen3_14b_h100/w7_agg12"
LLAMA, MIXTRAL = (
    f"vllm_h100_0.15/{name}" for name in ("20260217-155451-llama-2-7b-tp1-codegen", "20260218-130541-mixtral-8x7b-v0-1-tp2-general")
)
STUDIES = {
    "load": Study("load", (SLOW,), (FAST, MIXED), tables=False),
    "both": Study("both", (SLOW, FAST), (MIXED,), tables=False),
    "model": Study("model", (LLAMA,), (MIXTRAL,), tables=False),
}
PARTS = (*STUDIES, "tables", "intervals")
Figure = tuple[str, float]


def of_fit(part: str, done: Calibrated) -> Iterator[Figure]:
    """Errors of all runs of a study, fitted or not, and what became of the parameters."""
    yield f"{part}_fit_s", done.fit.seconds
    yield f"{part}_parameters_at_bound", sum(bool(row["at_bound"]) for row in done.rows)
    yield f"{part}_parameters_held", sum(bool(row["held"]) for row in done.rows)
    for score in done.scores:
        for metric in METRICS:
            for name in ("mean", "p99"):
                role, run = score.role.replace(" ", "_"), score.measured.name.split("/")[-1]
                yield f"{part}_{role}_{run}_{metric.removesuffix('_s')}_{name}_error_percent", score.after[metric][name]["error_pct"]


def of_intervals(study: Study, held_out: list[Scored], profile: Path) -> Iterator[Figure]:
    """Coverage and widths of the intervals of runs that a fit did not see."""
    inside = 0
    for score in held_out:
        row, name = coverage_of(study, score, profile), score.measured.name.split("/")[-1]
        inside += int(row["inside"])
        yield f"intervals_{name}_inside", row["inside"]  # pyright: ignore[reportReturnType]
        yield f"intervals_{name}_mean_half_width_percent", row["half-width, %"]  # pyright: ignore[reportReturnType]
    yield "intervals_inside_percent", 100.0 * inside / (len(held_out) * len(METRICS) * len(COMPARED))


def figures(parts: list[str]) -> Iterator[Figure]:
    """All figures of some parts."""
    with tempfile.TemporaryDirectory() as folder:
        for part, study in STUDIES.items():
            if part not in parts and not (part == "load" and "intervals" in parts):
                continue
            profile = Path(folder) / f"{part}.yaml"
            done = calibrated(study, profile)
            if part in parts:
                yield from of_fit(part, done)
            if part == "load" and "intervals" in parts:
                yield from of_intervals(study, [x for x in done.scores if x.role == HELD_OUT], profile)
    for case in WITH_TABLES if "tables" in parts else ():
        row = of(case, tables=True)
        for name in ("TTFT mean", "TPOT mean", "E2E mean"):
            yield f"tables_{case.folder}_{name.replace(' ', '_').lower()}_error_percent", float(row[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts or list(PARTS)
    if wrong := [part for part in parts if part not in PARTS]:
        parser.error(f"{wrong[0]}: there is no such part; one of {', '.join(PARTS)}")
    for name, value in figures(parts):
        print(f"{name}\t{value if np.isnan(value) else format(value, '.6g')}", flush=True)


if __name__ == "__main__":
    main()
