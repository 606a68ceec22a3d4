"""Figure 10: decode attention in memory that computes (experiments/validation/memory.py), simulated there and here; nobody measured it.

Energy is by the power that their cluster file states, three states of the device and the parts of the server (`power=three_state`).
"""

from __future__ import annotations

from memory import FIGURE_10, LOAD, STUDY, simulated, study
from table import Compared, read_tsv

from simjax.metrics import summarize

NAMES = {"gpu_only": "GPU only", "pim": "PIM", "pim_halves": "PIM, steps in two halves"}
FLAGS = ("scheduler.max_num_seqs=256", "scheduler.max_num_batched_tokens=2048", "scheduler.async_scheduling=false", "power=three_state")
COLUMNS = {"gpu_only": "gpu-only", "pim": "pim", "pim_halves": "pim-sbi"}


def rows() -> list[Compared]:
    """Output tokens a second over the whole run, and joules a token; simjax does not simulate the energy of PIM."""
    energy = read_tsv(FIGURE_10 / "peer_parsed" / "energy_per_token.tsv").iloc[0]
    found = []
    for name, config, options, curve in STUDY:
        if name not in NAMES:
            continue
        row = study(name, config, options, curve)
        found.append(Compared(f"10, {NAMES[name]}", "output tokens/s", None, float(row["theirs"]), float(row["tokens/s"])))
        ours = None
        if name == "gpu_only":
            done = simulated(str(FIGURE_10 / "config" / f"{config}_config.json"), str(LOAD), *FLAGS)
            ours = float(summarize(done.result)["energy"]["per_output_token_j"])
        found.append(Compared(f"10, {NAMES[name]}", "energy, J a token", None, float(energy[COLUMNS[name]]), ours, digits=3))
    return found
