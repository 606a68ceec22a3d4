"""Rewrite the tables and the headline of README.md from results/*.tsv; with --run, run every benchmark first (about half an hour).

usage: python report.py [--run] [--prototype DIR] [--quick]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"
SINGLE_RUNS = ("single_run", "startup", "scaling", "kernels", "instances", "disaggregated", "lockstep", "prefix", "prefix_traces")
SWEEPS = ("designs", "sweeps", "mixed", "prefix_sweep", "hydra_multirun", "resume", "device")
QUICK = {"single_run": 3, "kernels": 2, "instances": 2}  # repetitions; the others run once

# The columns of each table that the README shows, all columns of the file if empty; the files have more.
SHOWN: dict[str, tuple[str, ...]] = {
    "single_run": (
        "case",
        "what",
        "steps",
        "ticks",
        "ticks_per_step",
        "best_ms",
        "median_ms",
        "us_per_tick",
        "x_simulate",
        "x_prototype",
        "differs",
    ),
    "startup": (),
    "scaling": (
        *("requests", "steps", "ticks", "ticks_per_request", "compile_s", "simulate_s", "no_log_s", "us_per_tick", "x_first_per_tick"),
        *("arguments_mib", "rss_imported_mib", "rss_compiled_mib", "rss_peak_mib", "drain_s"),
    ),
    "kernels": (),
    "instances": (
        *("instances", "router", "steps", "ticks", "ticks_per_request", "compile_s", "simulate_s", "us_per_tick", "x_one_per_tick"),
        *("x_separate", "differs"),
    ),
    "disaggregated": (),
    "lockstep": (),
    "designs": (
        *("cores", "batch", "trace_s", "compile_s", "first_s", "steady_s", "designs_per_s", "ticks_per_s", "us_per_tick_and_design"),
        *("x_one_by_one", "x_prototype", "kernels", "bits_differ"),
    ),
    "sweeps": (
        *("what", "designs", "requests", "slots", "width", "programs", "plan_s", "first_s", "wall_s", "steady_s", "designs_per_s"),
        *("requests_per_s", "core_us_per_tick_and_design", "rss_peak_mib", "x_prototype"),
    ),
    "mixed": (
        *("points", "finished", "programs", "plan_s", "first_s", "wall_s", "steady_s", "points_per_s", "rows_compared", "rows_different"),
        *("single_points_per_s", "x_single", "rss_peak_mib"),
    ),
    "prefix": (),
    "prefix_traces": (),
    "prefix_sweep": (),
    "hydra_multirun": (),
    "resume": (),
    "invalid": (),
    "device_cpu": (),
    "bound_cpu": (),
}

Row = dict[str, str]


def read(path: Path) -> tuple[str, list[str], list[Row]]:
    """The first line (the description), the columns and the rows of a result file."""
    about, header, *lines = path.read_text().splitlines()
    columns = header.split("\t")
    return about.removeprefix("# "), columns, [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]


def markdown(path: Path) -> str:
    """A result file as a table."""
    about, columns, rows = read(path)
    shown = [column for column in SHOWN.get(path.stem, ()) if column in columns] or columns
    lines = ["| " + " | ".join(column.replace("_", " ") for column in shown) + " |", "|" + "---|" * len(shown)]
    lines += ["| " + " | ".join(row[column] for column in shown) + " |" for row in rows]
    return "\n".join([*lines, "", f"Measured on: {about}."])


def headline() -> str:
    """The headline results, from the files."""
    single = read(RESULTS / "single_run.tsv")[2]
    first, last = (read(RESULTS / "scaling.tsv")[2][i] for i in (0, -1))
    lines = llama_lines({row["what"]: row for row in single if row["case"] == "llama-300"})
    lines += azure_lines({row["what"]: row for row in single if row["case"] == "azure-2023-conv"})
    lines.append(
        f"{last['requests']} requests: {last['simulate_s']} s, {last['ticks_per_request']} ticks per request; a tick takes "
        f"{last['x_first_per_tick']} times that of {first['requests']} requests; the process {last['rss_peak_mib']} MiB at most, "
        f"{last['rss_compiled_mib']} MiB of them once compiled"
    )
    lines += sweep_lines({row["what"]: row for row in read(RESULTS / "sweeps.tsv")[2]})
    lines += [*mixed_lines(), *trouble_lines(), *device_lines()]
    return "\n".join(f"- {line}" for line in lines)


def llama_lines(rows: dict[str, Row]) -> list[str]:
    """Lines on the 300-request run."""
    if not rows:
        return []
    whole, bare, steps = (rows[what] for what in ("simulate()", "compiled program, no log", "simulate(), no leaps"))
    lines = [
        f"300 requests: {whole['best_ms']} ms with the log and the result on the host, {bare['best_ms']} ms the bare compiled program",
        f"ticks: {whole['ticks_per_step']} x steps (target: at most 0.3); without leaps the run takes {steps['x_simulate']} times as long",
    ]
    if prototype := rows.get("prototype"):
        lines.append(
            f"against the prototype ({prototype['best_ms']} ms in the same minutes): {whole['x_prototype']} times its time, "
            f"the bare program {bare['x_prototype']} times (target: at most 2)"
        )
    if reference := rows.get("reference simulator"):
        lines.append(
            f"the reference simulator takes {reference['x_simulate']} times as long; no time differs by more than {reference['differs']}"
        )
    return lines


def azure_lines(rows: dict[str, Row]) -> list[str]:
    """Lines on the Azure run."""
    if not rows:
        return []
    whole = rows["simulate()"]
    seconds = float(whole["best_ms"]) / 1e3
    work = f"{whole['ticks']} ticks, {whole['steps']} steps"
    line = f"Azure 2023 conversation on one H100: {whole['requests']} requests in {seconds:.3g} s ({work})"
    if reference := rows.get("reference simulator"):
        line += (
            f"; the reference simulator takes {reference['x_simulate']} times as long, no time differs by more than {reference['differs']}"
        )
    return [line]


def sweep_lines(rows: dict[str, Row]) -> list[str]:
    """Lines on the sweeps of the 300 requests."""
    lines = []
    if row := rows.get("1,024 designs"):
        lines.append(
            f"1,024 designs of the 300 requests: {row['wall_s']} s from the start of the process to the table (target: at most 10), "
            f"{row['designs_per_s']} designs/s once compiled"
        )
        if rate := row.get("x_prototype"):
            lines[-1] += f", {rate} times the best rate of the prototype in the same minutes (target: at least 1.6)"
    if row := rows.get("10,000 designs"):
        lines.append(f"10,000 designs: {row['wall_s']} s and {row['rss_peak_mib']} MiB at most (target: less than 4,096)")
    return lines


def mixed_lines() -> list[str]:
    """Lines on the sweep of different clusters, and on the comparison with Hydra's own sweeper."""
    mixed, jobs = read(RESULTS / "mixed.tsv")[2][0], read(RESULTS / "hydra_multirun.tsv")[2][1]
    return [
        f"{mixed['points']} different clusters: {mixed['programs']} programs (target: at most 8), {mixed['wall_s']} s, then "
        f"{mixed['points_per_s']} points/s; of {mixed['rows_compared']} rows compared with single runs {mixed['rows_different']} differ in "
        "any bit",
        f"{jobs['points']} points through Hydra's own multirun: {jobs['x_simjax']} times as long ({jobs['x_simjax_empty_cache']} with an "
        f"empty compilation cache), {jobs['files']} files; the same numbers",
    ]


def trouble_lines() -> list[str]:
    """Lines on interrupted sweeps and invalid points."""
    _, killed, resumed = read(RESULTS / "resume.tsv")[2]
    outcomes = read(RESULTS / "invalid.tsv")[2]
    wrong, reasons = sum(int(row["points"]) for row in outcomes if row["reason"]), sum(bool(row["reason"]) for row in outcomes)
    return [
        f"killed with {killed['done_after']} of {killed['points']} points done and resumed: {resumed['table']}; {wrong} invalid points "
        f"among {sum(int(row['points']) for row in outcomes)}: a row with one of {reasons} reasons each"
    ]


def device_lines() -> list[str]:
    """Lines on the limits of a batch on an accelerator."""
    rows = read(RESULTS / "bound_cpu.tsv")[2]
    first = next((row for row in rows if float(row["x_target"]) >= 1), rows[-1])
    last = rows[-1]
    return [
        f"no GPU was available; by its data sheet an {first['limits_of']} could do {first['possible']} designs/s of {first['kernels']} "
        f"kernels per tick with {first['designs']} side by side (target: 10,000), limited by {first['limit']}, and {last['possible']} with "
        f"{last['designs']}, limited by {last['limit']}; the bound for reading and writing the state once per tick is "
        f"{last['floor_allows']}"
    ]


def rewrite() -> None:
    """Replace the text between `<!-- NAME -->` and `<!-- /NAME -->` in the README."""
    text = README.read_text()
    for name in re.findall(r"<!-- (\w+) -->", text):
        path = RESULTS / f"{name}.tsv"
        if name == "headline":
            content = headline()
        elif path.exists():
            content = markdown(path)
        else:
            sys.exit(f"{path}: no such file; run the benchmarks first (--run)")
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        text = re.sub(f"{begin}.*?{end}", lambda _, new=f"{begin}\n{content}\n{end}": new, text, flags=re.DOTALL)
    README.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run every benchmark first")
    parser.add_argument("--prototype", type=Path, metavar="DIR", help="passed on to the benchmarks")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to try the scripts")
    options = parser.parse_args()
    if options.run:
        for script in (*SINGLE_RUNS, *SWEEPS):
            command = [sys.executable, str(HERE / f"{script}.py")]
            command += ["--prototype", str(options.prototype)] if options.prototype is not None else []
            command += ["--repeats", str(QUICK.get(script, 1))] if options.quick else []
            subprocess.run(command, check=True)
    rewrite()


if __name__ == "__main__":
    main()
