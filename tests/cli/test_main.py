"""Commands, help, and what surrounds a run: processes, pipes, the compilation cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli, one_line
from tests.compilation_cache import without_shared_cache

COMMANDS = ["run", "pareto", "show-point", "validate", "calibrate", "explain", "sensitivity"]
COMMANDS += ["trace describe", "trace export", "profile fit", "profile import"]
SMALL = ["workload.num_requests=12", "plots=false"]


def process(*words: str, cwd: Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`simjax ...` in a process of its own, with the compilation cache that users get below `cache`, or that of the tests."""
    command = [sys.executable, "-W", "error", "-m", "simjax", *words]
    environment = {**os.environ} if cache is None else {**without_shared_cache(), "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]], ids=" ".join)
def test_help_lists_every_command(cli: Cli, words: list[str]) -> None:
    said = cli(*words)
    assert said.code == 0
    assert said.err == ""
    for command in COMMANDS:
        assert f"  {command} " in said.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(cli: Cli, command: str) -> None:
    first = next(name for name in COMMANDS if name.split()[0] == command.split()[0])
    asked = [cli(*command.split(), "--help"), cli("help", *command.split()), *([cli(command.split()[0], "-h")] if command == first else [])]
    for said in asked:
        assert said.code == 0
        assert said.out.startswith(f"simjax {command}: ")
        assert "usage: simjax " + command in said.out
        assert max(len(line) for line in said.out.splitlines()) <= 120


def test_help_of_run_names_the_shipped_choices(cli: Cli) -> None:
    said = cli("run", "--help").out.split()
    for choice in (
        "llama-3.1-8b",
        "h100",
        "rtx_pro_6000",
        "least_loaded",
        "vllm_small",
        "closed_loop",
        "scheduler.max_num_seqs=256",
    ):
        assert choice in said
    for choice in (
        "sessions",
        "shared_prefix",
        "heterogeneous",
        "longest_prefix",
        "session_affinity",
        "scheduler.enable_prefix_caching=true|false",
    ):
        assert choice in said


def test_version(cli: Cli) -> None:
    said = cli("--version")
    assert said.out.startswith("simjax ")
    assert said.out.split()[1][0].isdigit()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rum"], "unknown command 'rum'; did you mean run?"),
        (["trace"], "unknown command 'trace'; did you mean trace export or trace describe?"),
        (["profile", "fti", "x=1"], "unknown command 'profile fti'; did you mean profile fit or profile import or power fit?"),
        (
            ["xyzzy"],
            "unknown command 'xyzzy'; known: calibrate, capacity, explain, handover fit, pareto, power fit, profile fit, profile import, "
            "run, sensitivity, show-point, trace describe, trace export, validate",
        ),
        (["validate", "-m", "x"], "simjax validate has no sweeps; -m goes with simjax run and simjax capacity"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_unknown_command(cli: Cli, words: list[str], line: str) -> None:
    assert one_line(cli(*words)) == line


def test_cfg_prints_the_configuration_and_runs_nothing(cli: Cli) -> None:
    said = cli("run", "--cfg", "job", "device=h200", "scheduler=vllm_small", "workload.rate=9")
    config = yaml.safe_load(said.out)
    assert said.code == 0
    assert (config["device"], config["scheduler"]["max_num_batched_tokens"], config["workload"]["rate"]) == ("h200", 2048, 9.0)
    assert not Path("outputs").exists()


def test_module_and_command_work_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    first = process("run", *SMALL, "out=a", cwd=tmp_path, cache=cache)
    assert first.returncode == 0, first.stderr
    assert "12 of 12 requests" in first.stdout
    assert all(line.startswith(("warning: ", "estimates: ")) for line in first.stderr.splitlines())
    stored = {path: path.stat().st_mtime_ns for path in (cache / "simjax").rglob("*.*") if path.is_file()}
    assert sum(path.name.startswith("program-") for path in stored) == 2, "the engine's programs, its start and its ticks, are not on disk"
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    second = process("run", *SMALL, "out=b", cwd=tmp_path, cache=cache)
    kept = {path: path.stat().st_mtime_ns for path in (cache / "simjax").rglob("*.*") if path.is_file()}
    assert kept == stored, "the second process compiled again"
    assert (tmp_path / "a" / "requests.csv").read_bytes() == (tmp_path / "b" / "requests.csv").read_bytes()
    assert second.stderr == first.stderr, "the second process has traced a program"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    said = process("run", *SMALL, cwd=tmp_path, cache=blocked)
    assert said.returncode == 0, said.stderr


def test_a_mistake_in_a_process_is_one_line(tmp_path: Path) -> None:
    said = process("run", "modle=x", cwd=tmp_path)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "simjax: error: unknown option 'modle'; did you mean model or profile?\n"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m simjax run --help | true"
    said = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.stderr == ""


class Raising:
    """A function that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object, **__: object) -> None:
        raise self.error


def test_results_that_cannot_be_written_are_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simjax.metrics.write_results", Raising(OSError(28, "No space left on device", "out/summary.json")))
    assert one_line(cli("run", *SMALL)) == "out/summary.json: No space left on device"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")], ids=repr)
def test_too_large_a_run_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("simjax.job.run", Raising(error))
    assert one_line(cli("run")).startswith("out of memory; simulate fewer requests or instances")


def test_what_is_no_mistake_of_the_users_is_not_hidden(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simjax.job.run", Raising(RuntimeError("a\nbug")))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    said = cli("run")
    (file,) = Path("cache/simjax").glob("traceback-*.txt")
    line = f"simjax: error: internal error: RuntimeError: a bug; its traceback is in {file}; please report it with the command\n"
    assert (said.code, said.err) == (3, line)
    assert "in __call__\n    raise self.error" in file.read_text()


def test_deep_nesting_is_one_line(cli: Cli) -> None:
    Path("deep.json").write_text("[" * 200_000 + "]" * 200_000)
    Path("deep.yaml").write_text("a: " + "[" * 3000 + "]" * 3000)
    assert one_line(cli("run", "model=deep.json")) == "model file deep.json is nested too deeply"
    assert one_line(cli("run", "device=deep.yaml")) == "device file deep.yaml is nested too deeply"
    assert one_line(cli("run", "cluster.file=deep.json")) == "cluster file deep.json is nested too deeply"
    assert "nested too deeply" in one_line(cli("run", "cluster.groups=" + "[" * 3000 + "]" * 3000))


def test_interrupted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simjax.job.run", Raising(KeyboardInterrupt()))
    said = cli("run")
    assert (said.code, said.err) == (130, "simjax: interrupted; nothing was written\n")
    assert not list(Path("outputs").iterdir())
