"""`simjax sensitivity` from the command line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from simjax.cli.commands import sensitivity
from tests.cli.conftest import Cli, one_line

SMALL = ("workload.num_requests=20", "seeds=2", "parameters=[gemm_bandwidth,api_pre_s,max_num_seqs]", "outputs=[tpot_mean_s,ttft_mean_s]")


def test_end_to_end(cli: Cli, tmp_path: Path) -> None:
    said = cli("sensitivity", *SMALL, "out=found")
    assert said.code == 0, said
    lines = [line.split() for line in said.out.splitlines()]
    ranked = [words[0] for words in lines if words and words[0] in ("gemm_bandwidth", "api_pre_s", "max_num_seqs")]
    assert ranked[0] == "gemm_bandwidth"
    assert "mean TPOT" in said.out and "mean TTFT" in said.out
    found = tmp_path / "found"
    assert {path.name for path in found.iterdir()} == {"config.yaml", "sensitivity.csv", "sensitivity.json", "sensitivity.png"}
    table = pd.read_csv(found / "sensitivity.csv")
    assert list(table) == ["output", "parameter", "unit", "value", "elasticity", "standard_error", "gradient"]
    assert list(table["parameter"][:3]) == ranked
    report = json.loads((found / "sensitivity.json").read_text())
    assert report["seeds"] == [0, 1] and len(report["effects"]) == 6
    assert report["outputs"]["tpot_mean_s"] > 0.0


@pytest.mark.parametrize(("kind", "taken", "left"), [("total", "elasticity", "gradient"), ("pathwise", "gradient", "elasticity")])
def test_one_kind_alone(cli: Cli, tmp_path: Path, kind: str, taken: str, left: str) -> None:
    """The same numbers as with both, and none of the other kind; without differences only the run itself is simulated."""
    for name in (kind, "both"):
        assert cli("sensitivity", *SMALL, f"kind={name}", f"out={name}", "plots=false").code == 0
    table, both = (pd.read_csv(tmp_path / name / "sensitivity.csv").set_index(["output", "parameter"]) for name in (kind, "both"))
    assert table[left].isna().all()
    pd.testing.assert_series_equal(table[taken].sort_index(), both[taken].sort_index())
    assert table[taken].notna().any()
    assert json.loads((tmp_path / kind / "sensitivity.json").read_text())["kind"] == kind
    said = cli("sensitivity", *SMALL, f"kind={kind}", "out=again", "plots=false").out
    assert ("gradient" in said, "std. error" in said) == (False, kind == "total")


def test_an_unknown_kind_is_one_line(cli: Cli) -> None:
    assert "kind=whole: it must be both, total or pathwise" in one_line(cli("sensitivity", "kind=whole"))


APART = (
    *("cluster=disaggregated", "cluster.prefill.instances=1", "cluster.decode.instances=1", "network.instance_nodes=[0,1]"),
    *("network.inter_bandwidth_bytes_per_s=5e9", "disaggregation.handover_s=0.016", "workload.num_requests=40", "workload.rate=6"),
    *("seeds=1", "plots=false", "outputs=[ttft_mean_s]", "parameters=[handover_s,network_bandwidth,empty_pass_s]"),
)


def test_transfers_are_taken_by_differences_and_why(cli: Cli, tmp_path: Path) -> None:
    said = cli("sensitivity", *APART, "step=0.2", "out=found")
    assert said.code == 0, said.err
    report = json.loads((tmp_path / "found" / "sensitivity.json").read_text())
    effects = {x["parameter"]: x for x in report["effects"]}
    assert report["by_differences"].keys() == {"handover_s", "network_bandwidth", "empty_pass_s"}
    for name in report["by_differences"]:
        assert effects[name]["gradient"] is None and effects[name]["value"] > 0.0
    assert effects["handover_s"]["elasticity"] > 0.05 and effects["network_bandwidth"]["elasticity"] < -0.05
    (line,) = (line for line in said.out.splitlines() if line.startswith("by differences only: "))
    assert "handover_s" in line and "network_bandwidth" in line and "when their steps end" in line


def test_without_plots(cli: Cli, tmp_path: Path) -> None:
    assert cli("sensitivity", *SMALL, "out=found", "plots=false").code == 0
    assert not (tmp_path / "found" / "sensitivity.png").exists()


def test_a_mistake_is_one_line(cli: Cli) -> None:
    assert "did you mean ttft_mean_s" in one_line(cli("sensitivity", "outputs=[ttft_men_s]"))


def test_help(cli: Cli) -> None:
    said = cli("sensitivity", "--help")
    assert said.code == 0 and "arrival_rate" in said.out


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3.35e12, "bytes/s", "3.35 TB/s"),
        (9.894e14, "FLOP/s", "989.4 TFLOP/s"),
        (0.0057, "s", "5.7 ms"),
        (5e-5, "s", "50 us"),
        (28247.0, "", "28,247"),
        (4.153, "requests/s", "4.153/s"),
        (0.03, "share", "0.03"),
        (None, "factor", "mixed"),
    ],
)
def test_values_in_words(value: float | None, unit: str, text: str) -> None:
    assert sensitivity.with_unit(value, unit) == text
