"""`simjax handover fit`, and the file that it writes for other commands."""

import json
from pathlib import Path

import pytest
import yaml

import simjax
from simjax.cluster.configured.cluster import configured_cluster
from simjax.errors import SimjaxError
from tests.calibrate.handed_over import CLUSTER, measured
from tests.cli.conftest import Cli, one_line
from tests.data import data_path

PAIR = ("model=qwen3-8b", "network.inter_bandwidth_bytes_per_s=25e9", "disaggregation.connector=mooncake")
PAIR += tuple(f"cluster.{pool}={{instances: 1, tensor_parallel_size: 8}}" for pool in ("prefill", "decode"))
FILE = "disaggregation:\n  setup_s: 0.001\n  link_efficiency: 0.8\n"


def of_config(printed: str) -> dict:
    return yaml.safe_load(printed)["disaggregation"]


def test_from_measured_transfers_to_a_run(cli: Cli) -> None:
    said = cli("handover", "fit", str(data_path("power/kv_tiers/pd_transfer.csv")), *PAIR, "out=fitted")
    assert said.code == 0, said.err
    assert {path.name for path in Path("fitted").iterdir()} == {"handover.yaml", "calibration.json", "config.yaml"}
    assert "link_efficiency" in said.out and "held out" in said.out and "simjax run disaggregation=fitted/handover.yaml" in said.out
    assert "left as it is: handover_s (no request was measured" in said.out
    report = json.loads(Path("fitted/calibration.json").read_text())
    assert (report["status"], report["problems"]) == ("calibrated", [])
    values = {row["name"]: row["value"] for row in report["parameters"]}
    written = yaml.safe_load(Path("fitted/handover.yaml").read_text())
    assert written["disaggregation"] == {name: pytest.approx(value, rel=1e-4) for name, value in values.items()}
    assert all(low < values[name] < high for name, (low, high) in written["intervals_90_pct"].items())

    shown = cli("run", "cluster=disaggregated", "disaggregation=fitted/handover.yaml", "--cfg")
    assert {name: of_config(shown.out)[name] for name in values} == written["disaggregation"]


def test_requests_tell_the_proxy(cli: Cli) -> None:
    measured().to_csv("m.csv", index=False)
    said = cli("handover", "fit", "requests=m.csv", *CLUSTER, "out=fitted")
    assert said.code == 0, said.err
    assert yaml.safe_load(Path("fitted/handover.yaml").read_text())["disaggregation"].keys() == {"setup_s", "link_efficiency", "handover_s"}
    assert "hand-over" in said.out and "transfer" in said.out


def test_a_poor_fit_says_so_and_is_written(cli: Cli) -> None:
    """Transfers between eight pairs of adapters are not those over one adapter."""
    said = cli("handover", "fit", str(data_path("power/kv_tiers/pd_transfer.csv")), "model=qwen3-8b", "out=poor")
    assert said.code == 1
    assert "at the bound of what the prior allows: link_efficiency" in said.err.replace("\n", " ")
    assert said.err.splitlines()[-1].startswith("simjax: error: not calibrated well")
    assert json.loads(Path("poor/calibration.json").read_text())["status"] == "poor" and Path("poor/handover.yaml").exists()


def test_options_take_precedence_over_the_file_wherever_they_stand(cli: Cli) -> None:
    Path("h.yaml").write_text(FILE)
    for words in (("disaggregation=h.yaml", "disaggregation.setup_s=0.002"), ("disaggregation.setup_s=0.002", "disaggregation=h.yaml")):
        found = of_config(cli("run", "cluster=disaggregated", *words, "--cfg").out)
        assert (found["setup_s"], found["link_efficiency"]) == (0.002, 0.8)
    rule = configured_cluster(simjax.compose(["cluster=disaggregated", "disaggregation=h.yaml"])).disaggregation
    assert (rule.setup_s, rule.link_efficiency, rule.handover_s) == (0.001, 0.8, 0.0)


def test_a_sweep_takes_the_file(cli: Cli) -> None:
    Path("h.yaml").write_text(FILE)
    words = ("cluster=disaggregated", "disaggregation=h.yaml", "disaggregation.setup_s=0.001,0.02")
    shown = yaml.safe_load(cli("run", "-m", *words, "--cfg").out)
    assert shown["disaggregation"]["link_efficiency"] == 0.8
    assert shown["sweep"]["axes"] == {"disaggregation.setup_s": [0.001, 0.02]}, "swept, not taken from the file"
    assert "2 points" in cli("run", "-m", *words, "sweep.dry_run=true").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to fit to: simjax handover fit transfers=FILE.csv, requests=FILE.csv, or both"),
        (("nowhere.csv",), "nowhere.csv: cannot be read (No such file or directory)"),
        (("t.csv", "cluster=one"), "a transfer needs a prefill and a decode instance"),
        (("t.csv", "parameters.handover.free=true"), "parameters.handover: a hand-over has no such parameter; did you mean handover_s?"),
        (("t.csv", "parameters.setup_s.prior=0"), "parameters.setup_s.prior=0: it must be positive"),
        (("t.csv", "parameters.link_efficiency.prior=1"), "parameters.link_efficiency.prior=1: it must be in (0, 1)"),
        (("t.csv", "parameters.setup_s.sd=0"), "parameters.setup_s.sd=0: it must be positive"),
        (("t.csv", "parameters.setup_s.tie=handover_s"), "parameters.setup_s.tie: parameters of a hand-over cannot be tied"),
        (("t.csv", "parameters={setup_s: {free: false}, link_efficiency: {free: false}}"), "every parameter is frozen"),
        (("t.csv", "seed=-1"), "seed=-1: it must not be negative"),
        (("t.csv", "workload.rate=3"), "unknown option 'workload'"),
    ],
)
def test_mistakes(cli: Cli, words: tuple[str, ...], message: str) -> None:
    Path("t.csv").write_text("prompt_tokens,transfer_ms\n100,1\n200,2\n")
    line = one_line(cli("handover", "fit", *words))
    assert line.startswith(message), line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("disaggregation:\n  setup: 1\n", "disaggregation.setup: there is no such number; did you mean setup_s?"),
        ("disaggregation:\n  connector: nixl\n", "disaggregation.connector: there is no such number"),
        ("disaggregation:\n  setup_s: soon\n", "disaggregation.setup_s=soon: it must be a number"),
        ("setup_s: 1\n", "it has no section disaggregation"),
        ("- 1\n", "it has no section disaggregation"),
    ],
)
def test_files_of_other_kinds(cli: Cli, text: str, said: str) -> None:
    Path("h.yaml").write_text(text)
    line = one_line(cli("run", "cluster=disaggregated", "disaggregation=h.yaml"))
    assert line.startswith("file of a hand-over h.yaml: ") and said in line
    with pytest.raises(SimjaxError, match=r"^cannot read file of a hand-over nowhere\.yaml"):
        simjax.compose(["cluster=disaggregated", "disaggregation=nowhere.yaml"])


def test_a_file_without_instances_to_hand_over_between(cli: Cli) -> None:
    Path("h.yaml").write_text(FILE)
    assert "has no effect in a cluster whose instances run both phases" in one_line(cli("run", "disaggregation=h.yaml"))


def test_a_changed_file_is_refused(cli: Cli) -> None:
    from simjax.disk.documents import with_digest

    Path("h.yaml").write_text(with_digest(FILE).replace("0.8", "0.9"))
    assert "was changed after it was written" in one_line(cli("run", "cluster=disaggregated", "disaggregation=h.yaml"))
