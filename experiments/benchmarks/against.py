"""simjax against installed peers: the same requests on the same hardware, as whole processes, in the same minutes.

A work is a trace, a number of instances and limits. Every simulator runs it as a process of its own, in turn, several times; the least
processor seconds (user and system, children included) and wall seconds of each count, and ratios are those of simjax to the peer: below 1
simjax is faster. simjax finds its compiled programs in its cache, as on every run of a user but the first (a run before the others fills
it). What the simulators predict is not compared here: see experiments/validation.

Peers:
    aisimulate: `pip install --pre 'simjax[peers]'`, or --aisimulate COMMAND. It routes to its replicas in its own default way; simjax
        does so in turn.
    others: --peer 'NAME=COMMAND', a command line in which {trace} (Mooncake's JSONL, hash ids of blocks of 16 tokens), {instances},
        {max_num_seqs} and {max_num_batched_tokens} are filled in.

Prints a line a figure, `figure<TAB>value`, and writes nothing.

usage: python against.py [--repeats N] [--works NAME,...] [--requests N] [--aisimulate COMMAND] [--peer NAME=COMMAND ...]
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import yaml

BLOCK_TOKENS = 16
MOONCAKE = "traces/mooncake/conversation_trace.jsonl"
AISIMULATE = {"rtx_pro_6000": "rtx_pro_6000_server", "h100": "h100_sxm"}  # its names of devices


@dataclass(frozen=True)
class Work:
    """A trace on instances of Llama-3.1-8B.

    Attributes:
        path: the trace, under the data folder.
        device: simjax's name of the device.
        instances: replicas.
        max_num_seqs, max_num_batched_tokens: limits of each.
        caching: whether prefixes are cached.
    """

    path: str
    device: str = "h100"
    instances: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    caching: bool = True


WORKS = {
    "llama-300": Work(common.LLAMA_TRACE, "rtx_pro_6000", 1, 128, 2048),
    "mooncake-hour": Work(MOONCAKE, instances=8),
    "mooncake-hour-no-cache": Work(MOONCAKE, instances=8, caching=False),
}


class Cost(NamedTuple):
    """Seconds of a process and its children."""

    cpu_s: float
    wall_s: float


def cost(command: list[str]) -> Cost:
    """The cost of a command; exits with the end of its output if it fails."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    wall_s, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: exit status {done.returncode}\n" + "\n".join(done.stdout.splitlines()[-8:]))
    return Cost(after.children_user + after.children_system - before.children_user - before.children_system, wall_s)


def mooncake(work: Work, folder: Path, requests: int | None) -> Path:
    """The first requests of the trace as Mooncake's JSONL with hash ids of blocks of 16 tokens, in the folder."""
    source, target, number = common.data_path(work.path), folder / f"{Path(work.path).stem}.jsonl", 0
    with target.open("w") as file:
        if work.path == MOONCAKE:  # its blocks have 512 tokens: 32 of ours, but for the rest of the last one
            for line in source.read_text().splitlines()[:requests]:
                row = json.loads(line)
                parts = -(-row["input_length"] // BLOCK_TOKENS)
                ids = (np.array(row["hash_ids"])[:, None] * 32 + np.arange(32)).reshape(-1)[:parts]
                file.write(json.dumps(row | {"hash_ids": ids.tolist()}) + "\n")
            return target
        trace = common.trace(work.path)
        for arrival_s, prompt, output in list(zip(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, strict=True))[:requests]:
            blocks = -(-int(prompt) // BLOCK_TOKENS)
            row = {"timestamp": 1e3 * float(arrival_s), "input_length": int(prompt), "output_length": int(output)}
            file.write(json.dumps(row | {"hash_ids": list(range(number, number + blocks))}) + "\n")
            number += blocks
    return target


def simjax(work: Work, trace: Path, folder: Path) -> list[str]:
    """simjax's command line; block ids of 16 tokens are what prefixes share."""
    options = ["model=llama-3.1-8b", f"device={work.device}", f"cluster.instances={work.instances}"]
    options += ["workload=trace", f"workload.file={trace}", f"workload.block_tokens={BLOCK_TOKENS}"]
    options += [f"scheduler.max_num_seqs={work.max_num_seqs}", f"scheduler.max_num_batched_tokens={work.max_num_batched_tokens}"]
    options += [f"scheduler.enable_prefix_caching={str(work.caching).lower()}"]
    return [sys.executable, "-m", "simjax", "run", *options, "plots=false", f"out={folder}/simjax"]


def aisimulate(command: str) -> Callable[[Work, Path, Path], list[str]]:
    """AISimulate's command line, by the name of its command."""

    def of(work: Work, trace: Path, folder: Path) -> list[str]:
        worker = {
            "parallelism": {"replicas": work.instances},
            "scheduler": {"max_batched_tokens": work.max_num_batched_tokens, "max_sequences": work.max_num_seqs},
            "kv_cache": {"block_size": BLOCK_TOKENS, "prefix_caching": work.caching},
        }
        engine = {"mode": "aggregated", "model": "meta-llama/Meta-Llama-3.1-8B", "hardware": AISIMULATE[work.device], "backend": "vllm"}
        source = {"type": "trace", "format": "mooncake", "paths": [str(trace)], "block_size": BLOCK_TOKENS}
        config = {
            "traffic": {"source": source, "load": {"type": "trace_timestamps"}},
            "engine": engine | {"workers": {"aggregated": worker}},
        }
        path = folder / "aisimulate.yaml"
        path.write_text(yaml.safe_dump(config))
        return [
            *shlex.split(command),
            "predict",
            "-c",
            str(path),
            "--format",
            "json",
            "--output-dir",
            f"{folder}/aisimulate",
            "--overwrite",
        ]

    return of


def other(command: str) -> Callable[[Work, Path, Path], list[str]]:
    """The command line of a peer that is given by a template."""
    names = ("instances", "max_num_seqs", "max_num_batched_tokens")
    return lambda work, trace, _: [
        part.format(trace=trace, **{name: getattr(work, name) for name in names}) for part in shlex.split(command)
    ]


def main() -> None:
    parser = common.arguments(__doc__, 3)
    parser.add_argument("--works", default=",".join(WORKS), help=f"works to run: {', '.join(WORKS)}")
    parser.add_argument("--requests", type=int, help="the first N requests of each trace; all of them without")
    parser.add_argument("--aisimulate", default="aisimulate", metavar="COMMAND", help="command of AISimulate")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="another simulator; see above")
    options = parser.parse_args()
    peers = {name: other(command) for name, _, command in (given.partition("=") for given in options.peer)}
    if shutil.which(shlex.split(options.aisimulate)[0]):
        peers["aisimulate"] = aisimulate(options.aisimulate)
    if not peers:
        raise SystemExit("no peer is installed: pip install --pre 'simjax[peers]', or give --aisimulate COMMAND or --peer NAME=COMMAND")
    works = {name: WORKS[name] for name in options.works.split(",") if name in WORKS}
    if len(works) < len(options.works.split(",")):
        raise SystemExit(f"--works={options.works}: there are {', '.join(WORKS)}")
    for name, work in works.items():
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            trace = mooncake(work, folder, options.requests)
            commands = {who: make(work, trace, folder) for who, make in ({"simjax": simjax} | peers).items()}
            cost(commands["simjax"])  # compiled programs into the cache
            rounds = [{who: cost(command) for who, command in commands.items()} for _ in range(options.repeats)]
            best = {who: Cost(*(min(getattr(x[who], kind) for x in rounds) for kind in Cost._fields)) for who in commands}
        for who, found in best.items():
            print(f"{name} {who} cpu_s\t{found.cpu_s:.2f}\n{name} {who} wall_s\t{found.wall_s:.2f}")
        for who in peers:
            print(f"{name} simjax/{who} cpu\t{best['simjax'].cpu_s / best[who].cpu_s:.3f}", flush=True)


if __name__ == "__main__":
    main()
