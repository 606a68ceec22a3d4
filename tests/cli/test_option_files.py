"""Options from files: a run's own configuration, presets of the user's, and what is to be filled in about a server."""

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli, one_line
from tests.workload.test_results import VLLM

SMALL = ["workload.num_requests=60", "plots=false"]


def config(cli: Cli, *words: str) -> dict:
    said = cli(*words, "--cfg")
    assert said.code == 0, said.err
    return yaml.safe_load(said.out)


def test_a_run_is_replayed_from_its_configuration(cli: Cli) -> None:
    options = ["workload=closed_loop", "scheduler.max_num_seqs=8", "profile.parameters={step_s: 1e-3}", "cluster.router=least_loaded"]
    assert cli("run", *SMALL, *options, "cluster.instances=2", "out=first").code == 0
    assert cli("run", "--config", "first/config.yaml", "out=again").code == 0
    assert Path("first/requests.csv").read_bytes() == Path("again/requests.csv").read_bytes()
    given = config(cli, "run", "--config=first/config.yaml", "profile.parameters.step_s=2e-3", "workload.concurrency=3", "device=h200")
    assert given["profile"]["parameters"] == {"step_s": 2e-3} and given["workload"]["concurrency"] == 3
    assert (given["device"], given["scheduler"]["max_num_seqs"], given["out"]) == ("h200", 8, None)
    other = config(cli, "run", "--config", "first/config.yaml", "workload=poisson")
    assert other["workload"]["kind"] == "poisson" and other["workload"]["concurrency"] is None


def test_the_configuration_of_a_run_serves_other_commands(cli: Cli) -> None:
    assert cli("run", *SMALL, "scheduler.max_num_seqs=8", "device=h200", "out=first").code == 0
    for command in ("capacity", "sensitivity"):
        given = config(cli, command, "--config", "first/config.yaml")
        assert given["scheduler"]["max_num_seqs"] == 8 and given["device"] == "h200"


def test_the_later_of_two_files_wins_and_dotted_names_do(cli: Cli) -> None:
    Path("a.yaml").write_text("scheduler.max_num_seqs: 8\nscheduler: {block_size: 32}\ndevice: h200\n")
    Path("b.yaml").write_text("scheduler: {max_num_seqs: 16}\nworkload: closed_loop\ncluster:\n  # instances: 3\n")
    given = config(cli, "run", "--config", "a.yaml", "--config", "b.yaml")
    assert (given["scheduler"]["max_num_seqs"], given["scheduler"]["block_size"], given["device"]) == (16, 32, "h200")
    assert given["workload"]["kind"] == "closed_loop"


def test_presets_of_files_and_folders(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text("defaults: [closed_loop, _self_]\nconcurrency: 5\nprompt: {mean: 77}\n")
    Path("own/workload").mkdir(parents=True)
    Path("own/workload/chatty.yaml").write_text("# Many short requests. And more.\nkind: poisson\nrate: 21\n")
    given = config(cli, "run", "workload=mine.yaml", "workload.concurrency=6")["workload"]
    assert (given["kind"], given["concurrency"], given["prompt"]["mean"]) == ("closed_loop", 6, 77)
    assert config(cli, "run", "--config-dir", "own", "workload=chatty")["workload"]["rate"] == 21
    assert "chatty" in one_line(cli("run", "--config-dir=own", "workload=chaty"))
    assert "there is no such option" in one_line(cli("run", "workload=chatty"))
    monkeypatch.setenv("SIMJAX_CONFIG_DIR", "own")
    assert config(cli, "run", "workload=chatty", "workload.rate=4")["workload"]["rate"] == 4
    assert "Many short requests" in cli("run", "--help").out


def test_a_sweep_from_a_file(cli: Cli) -> None:
    Path("grid.yaml").write_text("axes: {scheduler.max_num_seqs: [2, 4], workload.rate: [3, 4, 5]}\n")
    assert cli("run", *SMALL, "sweep=grid.yaml", "out=swept").code == 0
    assert len(Path("swept/results.csv").read_text().splitlines()) == 7
    assert cli("run", "-m", *SMALL, "sweep=grid.yaml", "device=h100,h200", "out=more").code == 0
    assert len(Path("more/results.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (
            "- 1\n",
            ("run", "--config", "f.yaml"),
            "configuration file f.yaml: it must be a mapping of options, like the config.yaml of a run",
        ),
        ("scheduler: {max_num_seq: 3}\n", ("run", "--config", "f.yaml"), "f.yaml: unknown option 'scheduler.max_num_seq'; did you mean"),
        ("scheduler: 3\n", ("run", "--config", "f.yaml"), "f.yaml: scheduler=3: it must be a mapping of options"),
        ("sweep: {samples: 3}\n", ("validate", "--config", "f.yaml"), "f.yaml: unknown option 'sweep'"),
        ("scheduler: {max_num_seqs: many}\n", ("run", "--config", "f.yaml"), "scheduler.max_num_seqs=many: it must be an integer"),
        ("rat: 3\n", ("run", "workload=f.yaml"), "f.yaml: unknown option 'workload.rat'; did you mean"),
        ("defaults: [poison]\n", ("run", "workload=f.yaml"), "file of workload f.yaml: defaults: poison: there is no such preset"),
        ("", ("run", "--config"), "--config: give a path after it"),
        ("", ("run", "--config", "none.yaml"), "cannot read configuration file none.yaml: No such file"),
        ("", ("run", "--config-dir", "nowhere"), "nowhere: no such folder"),
        ("", ("run", "--template"), "simjax run has no --template"),
    ],
)
def test_mistakes_in_files(cli: Cli, content: str, words: tuple[str, ...], message: str) -> None:
    Path("f.yaml").write_text(content)
    assert message in one_line(cli(*words))


def test_what_a_file_does_not_record_is_filled_in(cli: Cli) -> None:
    Path("result.json").write_text(json.dumps(VLLM))
    said = one_line(cli("validate", "result.json"))
    for part in (
        "device is not recorded; device=NAME states it",
        "gpu_memory_utilization=0.9",
        "max_num_seqs and max_num_batched_tokens by",
    ):
        assert part in said
    assert cli("validate", "result.json", "--template", "scheduler.max_num_seqs=64").code == 0
    text = Path("server.yaml").read_text()
    assert "device: null  # needed" in text and "  # max_num_batched_tokens: 8192" in text and "\n  max_num_seqs: 64" in text
    assert "server.yaml exists" in one_line(cli("validate", "result.json", "--template"))
    Path("server.yaml").write_text(
        text.replace("device: null", "device: h100").replace("# max_num_batched_tokens: 8192", "max_num_batched_tokens: 99")
    )
    for command in ("validate", "calibrate"):
        given = config(cli, command, "--config", "server.yaml")
        assert (given["measured"], given["device"], given["model"]) == ("result.json", "h100", "Qwen/Qwen3-8B")
        assert given["scheduler"]["max_num_seqs"] == 64 and given["scheduler"]["max_num_batched_tokens"] == 99
    assert cli("calibrate", "--template", "out=blank.yaml").code == 0
    assert "model: null  # needed" in Path("blank.yaml").read_text()


def test_a_run_as_a_result_of_vllm_and_back(cli: Cli) -> None:
    assert cli("run", *SMALL, "scheduler.max_num_seqs=8", "workload.rate=20", "out=first").code == 0
    assert cli("trace", "export", "first/requests.csv", "out=as_vllm.json").code == 0
    assert cli("validate", "as_vllm.json", "out=back", "plots=false").code == 0
    report = json.loads(Path("back/validation.json").read_text())
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        assert abs(report[metric]["p99"]["error_pct"]) < 1e-6
    assert "no requests given" in one_line(cli("trace", "export"))
