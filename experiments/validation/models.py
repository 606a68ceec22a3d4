"""Sizes of the shipped models and of KV caches against published and logged ones: prints one line a figure, `figure<TAB>value`.

    python experiments/validation/models.py              # a few seconds
    python experiments/validation/models.py rows         # every number besides

The published numbers and their sources are in the files of `profiles/models`, vLLM's logged counts of blocks in
`tests/hardware/recorded_blocks.csv`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from simjax.deployment import Deployment
from simjax.hardware import load_device
from simjax.memory.capacity import MemoryLimits, kv_blocks
from simjax.model import load_model
from simjax.model.published import Published, published
from simjax.parallel.parallelism import Parallelism

LOGGED = Path(__file__).parents[2] / "tests" / "hardware" / "recorded_blocks.csv"
COUNT_PERCENT, BLOCKS_PERCENT = 0.5, 2.0


def logged_errors() -> dict[str, float]:
    """Error of the predicted number of KV blocks in percent, by model, device and source."""
    found = {}
    with LOGGED.open() as file:
        for row in csv.DictReader(file):
            limits = MemoryLimits(
                gpu_memory_utilization=float(row["gpu_memory_utilization"]),
                max_num_batched_tokens=int(row["max_num_batched_tokens"]),
                max_num_seqs=int(row["max_num_seqs"]),
            )
            degree = Parallelism(tensor=int(row["tensor_parallel_size"]))
            blocks = kv_blocks(Deployment(load_model(row["model"]), load_device(row["device"]), degree), limits)
            found[f"{row['model']} tp{row['tensor_parallel_size']} {row['device']}"] = 100.0 * (blocks / int(row["num_gpu_blocks"]) - 1.0)
    return found


def figure(name: str, value: float | str) -> None:
    """Print a figure."""
    print(f"{name}\t{value if isinstance(value, str) else f'{value:.4g}'}")


def main(rows: bool) -> None:
    """Print the figures, and with `rows` the number of each row."""
    all_of = published()
    kinds: dict[str, list[Published]] = {
        "total": [row for row in all_of if row.of in ("parameters", "without_embeddings")],
        "active": [row for row in all_of if row.of.startswith("active")],
    }
    for kind, some in (*kinds.items(), ("all", kinds["total"] + kinds["active"])):
        near = [row for row in some if abs(row.error_percent) <= COUNT_PERCENT]
        figure(f"parameter_counts {kind}", len(some))
        figure(f"parameter_counts_within_{COUNT_PERCENT:g}_percent {kind}", len(near))
        figure(f"parameter_counts_that_round_to_the_stated_one {kind}", sum(row.within_percent is None and row.met for row in some))
        figure(f"parameter_counts_worst_error_percent {kind}", max(abs(row.error_percent) for row in some))
    caches = [row for row in all_of if row.of == "kv_bytes_per_token"]
    figure("kv_bytes_per_token", len(caches))
    figure("kv_bytes_per_token_exact", sum(row.error_percent == 0.0 for row in caches))
    logged = logged_errors()
    figure("logged_kv_blocks", len(logged))
    figure(f"logged_kv_blocks_within_{BLOCKS_PERCENT:g}_percent", sum(abs(error) <= BLOCKS_PERCENT for error in logged.values()))
    for name, error in logged.items():
        figure(f"logged_kv_blocks_error_percent {name}", f"{error:+.2f}")
    if rows:
        for row in all_of:
            figure(f"{row.of} {row.name}", f"{row.computed} against {row.count:.12g}, {row.error_percent:+.3f} %, {row.source}")


if __name__ == "__main__":
    main("rows" in sys.argv[1:])
