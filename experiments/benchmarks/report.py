"""Rewrite the tables and the headline of README.md from results/*.tsv; with --run, run every benchmark first (about ten minutes).

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
SCRIPTS = ("single_run", "startup", "scaling", "kernels", "instances", "designs", "device")
QUICK = {"single_run": 3, "startup": 2, "scaling": 1, "kernels": 2, "instances": 2, "designs": 1, "device": 2}

# The columns of each table that the README shows, all that the file has when empty; the files have more.
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
    "designs": (),
    "device_cpu": (),
}

Row = dict[str, str]


def read(path: Path) -> tuple[str, list[str], list[Row]]:
    """What the first line says, the columns and the rows of a result file."""
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
    """The questions that the benchmarks were asked, answered from the files."""
    single = read(RESULTS / "single_run.tsv")[2]
    first, last = (read(RESULTS / "scaling.tsv")[2][i] for i in (0, -1))
    batch = read(RESULTS / "designs.tsv")[2][0]
    lines = llama_lines({row["what"]: row for row in single if row["case"] == "llama-300"})
    lines += azure_lines({row["what"]: row for row in single if row["case"] == "azure-2023-conv"})
    lines.append(
        f"{last['requests']} requests: {last['simulate_s']} s, {last['ticks_per_request']} ticks each; a tick takes "
        f"{last['x_first_per_tick']} times that of {first['requests']} requests; the process {last['rss_peak_mib']} MiB at most, "
        f"{last['rss_compiled_mib']} MiB of them once compiled"
    )
    lines.append(
        f"{batch['designs']} designs of the 300 requests under `vmap`: {batch['designs_per_s']} designs/s, "
        f"{batch['x_single']} times as many as one after the other"
    )
    return "\n".join(f"- {line}" for line in lines)


def llama_lines(rows: dict[str, Row]) -> list[str]:
    """What the 300-request run says."""
    if not rows:
        return []
    whole, bare, steps = (rows[what] for what in ("simulate()", "compiled program, no log", "simulate(), no leaps"))
    lines = [
        f"300 requests: {whole['best_ms']} ms with the log and the result on the host, {bare['best_ms']} ms the bare compiled program",
        f"ticks: {whole['ticks_per_step']} x steps (wanted: at most 0.3); without leaps the run takes {steps['x_simulate']} times as long",
    ]
    if prototype := rows.get("prototype"):
        lines.append(
            f"against the prototype ({prototype['best_ms']} ms in the same minutes): {whole['x_prototype']} times its time, "
            f"the bare program {bare['x_prototype']} times (wanted: at most 2)"
        )
    if reference := rows.get("reference simulator"):
        lines.append(
            f"the reference simulator takes {reference['x_simulate']} times as long; no time differs by more than {reference['differs']}"
        )
    return lines


def azure_lines(rows: dict[str, Row]) -> list[str]:
    """What the Azure run says."""
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


def rewrite() -> None:
    """Fill in everything between `<!-- NAME -->` and `<!-- /NAME -->` of the README."""
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
        for script in SCRIPTS:
            command = [sys.executable, str(HERE / f"{script}.py")]
            command += ["--prototype", str(options.prototype)] if options.prototype is not None else []
            command += ["--repeats", str(QUICK[script])] if options.quick else []
            subprocess.run(command, check=True)
    rewrite()


if __name__ == "__main__":
    main()
