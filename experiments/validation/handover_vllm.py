"""The hand-over of the reference simulator against vLLM's own scheduler, driven in virtual time: every time to 1e-9 s, every count.

usage: python handover_vllm.py                                    the recorded scenarios, `vllm_oracle/pd.json` of the data folder
       python handover_vllm.py --vllm-python V/bin/python         and drawn ones, run by a Python that has vLLM (a CPU is enough)

Prints `figure<TAB>value`. A scenario is one engine with loads and holds whose times are given. Without prefix caching the drawn ones should
all be equal. With it the reference names blocks that vLLM names later or twice (tests/reference/pool.py), so some differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.reference.alone import play

DATA = Path(os.environ.get("SIMJAX_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
RECORDED = DATA / "vllm_oracle" / "pd.json"
TOOL = DATA.parent / "tools" / "vllm_scheduler.py"
TOLERANCE_S = 1e-9
TIMES = ("scheduled_s", "first_token_s", "finish_s")
KINDS = ("loads", "holds", "mixed", "cached loads")

Row = dict[str, Any]


def difference_s(scenario: Row, theirs: list[Row], steps: list[list]) -> float:
    """The largest difference of a time between the reference and vLLM; infinite where a count or the content of a pass differs.

    A preemption of a request whose last token is on its way is one for vLLM's counter only.
    """
    played, rank = play(scenario)
    worst = 0.0
    for ours, row in zip(map(asdict, played), theirs, strict=True):
        counts = (row["preemptions"] - row.get("vain_preemptions", 0), row["cached_tokens"])
        if (ours["preemptions"], ours["cached_tokens"]) != counts or any((ours[name] is None) != (row[name] is None) for name in TIMES):
            return float("inf")
        worst = max([worst, *(abs(ours[name] - row[name]) for name in TIMES if row[name] is not None)])
    if len(rank.passes) != len(steps):
        return float("inf")
    for ours, (*stamps, tokens, preempted, arrived, read, free_blocks) in zip(rank.passes, steps, strict=True):
        content = ({str(request): new for request, new in ours.tokens.items()}, ours.preempted, ours.arrived, ours.read, ours.free_blocks)
        if content != (tokens, preempted, arrived, read, free_blocks):
            return float("inf")
        worst = max([worst, *(abs(a - b) for a, b in zip((ours.formed_s, ours.start_s, ours.end_s), stamps, strict=True))])
    return worst


def draw(kind: str, number: int, seed: int) -> Row:
    """A scenario in the format of vllm_scheduler.py: a tight engine, requests that load their prompt or are read after their end."""
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    count, block_size = int(rng.integers(3, 16)), int(rng.choice([1, 2, 4, 16]))
    prompts, outputs = rng.integers(1, 60, count).tolist(), rng.integers(1, int(rng.choice([2, 12, 40])), count).tolist()
    largest = max(-(-(prompt + output) // block_size) for prompt, output in zip(prompts, outputs, strict=True))
    seats = int(rng.integers(1, 9))
    limits = {
        "num_gpu_blocks": 1 + int(largest * rng.choice([1.0, 1.5, 3.0])) + int(rng.integers(0, 3)),
        "block_size": block_size,
        "max_num_seqs": seats,
        "max_num_batched_tokens": max(seats, int(rng.integers(1, 65))),
        "max_model_len": 4000,
        "long_prefill_token_threshold": 0,
        "enable_chunked_prefill": True,
        "reserve_full_isl": bool(rng.random() < 0.8),
        "async_scheduling": bool(number % 2),
        "enable_prefix_caching": kind == "cached loads",
    }
    u = rng.uniform(0.5, 1.5, 6)
    price = {"token_s": 1.1e-3 * u[0], "sequence_s": 3.1e-4 * u[1]}
    price |= {"decode_s": [3e-3 * u[2], 2e-4 * u[3], 1.3e-5 * u[4]], "mixed_s": [5e-3 * u[5], 4e-5 * u[4]]}
    trunk = rng.integers(0, 9, 60).tolist()
    rows, arrival_s = [], 0.0
    for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        arrival_s += float(rng.choice([0.0, rng.exponential(0.03)]))
        row: Row = {"arrival_s": arrival_s, "prompt": prompt, "output": output}
        if limits["enable_prefix_caching"]:
            shared = int(rng.integers(0, prompt + 1))
            row["prompt"] = trunk[:shared] + [10_000 * (index + 1) + place for place in range(shared, prompt)]
        side = {"holds": 1, "mixed": int(rng.integers(2))}.get(kind, 0)
        if rng.random() < 0.7:
            row |= {"hold_s": 1e-6 + rng.exponential(0.05)} if side else {"load_tokens": prompt, "load_s": rng.exponential(0.05)}
        rows.append(row)
    return {"limits": limits, "price": price, "empty_pass_s": 1e-3, "requests": rows, "steps": True}


def as_rows(steps: list[Row]) -> list[list]:
    """The steps that vllm_scheduler.py writes, as rows of the recorded scenarios."""
    names = ("formed_s", "start_s", "end_s", "tokens", "preempted", "arrived", "read", "free_blocks")
    return [[step[name] for name in names] for step in steps]


def drawn(python: str, tool: Path, count: int, seed: int) -> Iterator[tuple[str, float | str]]:
    """Kind of a drawn scenario, and the difference to vLLM, or why there is none."""
    command = [python, str(tool), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as vllm:
        assert vllm.stdin is not None and vllm.stdout is not None
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            scenario = draw(kind, number // len(KINDS), seed)
            vllm.stdin.write(json.dumps(scenario) + "\n")
            vllm.stdin.flush()
            if not (line := vllm.stdout.readline()):
                sys.exit(f"{tool} ended; `{python} {tool} --help` says why")
            answer = json.loads(line)
            yield kind, answer["error"] if "error" in answer else difference_s(scenario, answer["requests"], as_rows(answer["steps"]))
        vllm.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", help="a Python with vLLM; without it only the recorded scenarios are compared")
    parser.add_argument("--tool", type=Path, default=TOOL, help="vllm_scheduler.py")
    parser.add_argument("--count", type=int, default=400, help="drawn scenarios")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not RECORDED.exists():
        sys.exit(f"{RECORDED}: no such file; set SIMJAX_DATA to the data folder")
    recorded = json.loads(RECORDED.read_text())
    differences = [difference_s(row["scenario"], row["requests"], row["steps"]) for row in recorded]
    print(f"pd_scenarios\t{len(recorded)}")
    print(f"pd_scenarios_equal\t{sum(difference <= TOLERANCE_S for difference in differences)}")
    print(f"pd_largest_difference_s\t{max(differences):.3g}")
    if args.vllm_python is None:
        return
    results: dict[str, list[float | str]] = {kind: [] for kind in KINDS}
    for kind, result in drawn(args.vllm_python, args.tool, args.count, args.seed):
        results[kind].append(result)
    for kind, found in results.items():
        name, ran = f"drawn_{kind.replace(' ', '_')}", [result for result in found if not isinstance(result, str)]
        print(f"{name}\t{len(ran)}")
        print(f"{name}_equal\t{sum(difference <= TOLERANCE_S for difference in ran)}")
        for error in sorted({result for result in found if isinstance(result, str)}):
            print(f"{name}_refused\t{error}")


if __name__ == "__main__":
    main()
