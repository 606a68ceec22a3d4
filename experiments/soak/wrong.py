"""Wrong commands, drawn: misspelt options, values of another type, files of every kind of damage."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from mistakes import Soak

QUICK = ("workload.num_requests=5", "plots=false")
FIXED = {"run": QUICK, "sensitivity": ("workload.num_requests=5", "seeds=1")}
COMMANDS = {
    "run": ["run"], "sensitivity": ["sensitivity"], "validate": ["validate"], "calibrate": ["calibrate"], "pareto": ["pareto"],
    "show_point": ["show-point"], "describe": ["trace", "describe"], "fit": ["profile", "fit"],
}  # fmt: skip
WRONG = {
    int: ("x", "1.5", "[1]", "{a: 1}", "1e400", "9" * 5000, "null_", "'1 2'"),
    float: ("fast", "nan", "[1]", "{a: 1}", "1..5", "0x1p", "'1,5'"),
    bool: ("maybe", "[true]", "nan"),
    str: ("[1]", "{a: 1}"),
    list: ("{a: 1}", "7x"),
    dict: ("[1]", "7"),
}
TRACE = "arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,3,2\n2,30,4\n"
ROW = '{"timestamp": 0, "input_length": 31, "output_length": 4, "hash_ids": [0]}\n'
FILES = {  # name: content, and the words that read it
    "t.csv": (TRACE, ["trace", "describe", "t.csv", "out=o"]),
    "t.jsonl": (ROW * 3, ["trace", "describe", "t.jsonl", "out=o"]),
    "d.yaml": ("profiles/hardware/h100.yaml", ["run", "device=d.yaml", *QUICK, "out=o"]),
    "m.json": ("model", ["run", "model=m.json", *QUICK, "out=o"]),
    "p.yaml": ("profiles/latency/h100/generic.yaml", ["run", "profile=p.yaml", *QUICK, "out=o"]),
    "c.json": (
        '{"nodes": [{"instances": [{"model_name": "meta-llama/Llama-3.1-8B", "hardware": "H100", "npu_num": 1}]}]}',
        ["run", "cluster.file=c.json", *QUICK, "out=o"],
    ),
    "points.csv": ("workload.rate\n1\n4\n", ["run", "-m", "sweep.points=points.csv", *QUICK, "sweep.dry_run=true"]),
}
DAMAGES = ("empty", "binary", "cut", "deep", "nan", "huge", "utf16", "folder", "missing", "list", "text", "loop", "nul", "long line")


def run(soak: Soak, count: int, seed: int) -> None:
    """Make `count` mistakes: two thirds wrong options, the others damaged files."""
    draw = random.Random(seed)
    options = [*_options(draw)]
    draw.shuffle(options)
    files = [(name, damage) for name in FILES for damage in DAMAGES if (name, damage) != ("points.csv", "nan")]
    draw.shuffle(files)
    for number in range(count):
        soak.count("mistakes")
        if number % 3 and options:
            words = options.pop()
        else:
            name, damage = files[number // 3 % len(files)]
            words = _damaged(soak.work, name, damage)
        said = soak.call(*words)
        what = f"simjax {' '.join(words)[:300]}{'' if number % 3 else f'  ({damage} {name})'}: {(said.err or said.out)[-300:]!r}"
        soak.count("mistakes_with_traceback", said.traceback, what)
        soak.count("mistakes_told_in_one_line", said.one_line)
        soak.count("mistakes_taken_as_meant", said.code == 0, what)
        soak.count("mistakes_told_otherwise", said.code != 0 and not said.one_line and not said.traceback, what)
        soak.check_outside(" ".join(words))
        for path in soak.work.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _options(draw: random.Random) -> Iterator[list[str]]:
    """For every option of every command, a misspelt name and a value of another type."""
    from simjax.config.compose import SCHEMAS
    from simjax.options.option import options

    for command, words in COMMANDS.items():
        for option in options(SCHEMAS[command]):
            at = draw.randrange(len(option.key))
            misspelt = option.key[:at] + draw.choice([x for x in "xqz_." if x != option.key[at]]) + option.key[at + 1 :]
            yield [*words, *FIXED.get(command, ()), f"{misspelt}=1"]
            wrong = WRONG.get(option.kind)
            if wrong and option.key != "out":
                yield [*words, *FIXED.get(command, ()), f"{option.key}={draw.choice(wrong)}"]


def _damaged(work: Path, name: str, damage: str) -> list[str]:
    """Write a damaged file; the words of the command that reads it."""
    content, words = FILES[name]
    path, text = work / name, _good(content)
    contents = {
        "empty": b"", "binary": bytes(range(128, 256)), "cut": text[: len(text) // 2], "deep": b"[" * 50_000, "list": b"[1, 2]",
        "nan": text.replace(b"1", b"NaN"), "huge": text.replace(b"1", b"9" * 5000), "utf16": text.decode().encode("utf-16"),
        "text": b"hello\n", "nul": text.replace(b"1", b"\0"), "long line": b"x" * 1_000_000,
    }  # fmt: skip
    if damage == "folder":
        path.mkdir()
    elif damage == "loop":
        path.symlink_to(name)
    elif damage != "missing":
        path.write_bytes(contents[damage])
    return words


def _good(content: str) -> bytes:
    from simjax.disk.paths import PROFILES

    if content == "model":
        return json.dumps(yaml.safe_load((PROFILES / "models" / "qwen3-14b.yaml").read_text())).encode()
    file = PROFILES.parent / content
    return file.read_bytes() if content.startswith("profiles/") else content.encode()
