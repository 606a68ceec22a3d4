"""The commands on public files: LLMServingSim's clusters, a recorded trace, measured op tables, a measured run."""

import json
from pathlib import Path

import pandas as pd
import pytest

from simjax.cluster.configured.llmservingsim import read_cluster
from simjax.cluster.instance import InstanceLimits
from tests.cli.conftest import Cli, one_line
from tests.data import data_path

# name: engines, kind, devices
RUN = {
    "dual_node_multi_instance": "4 x Llama-3.1-8B on rtx_pro_6000 ·",
    "rtx4090_single_instance": "Llama-3.1-8B on rtx_4090 ·",
    "rtx4090_tp2_instance": "Llama-3.1-8B on rtx_4090 TP2 ·",
    "single_node_4_instance_2TP": "4 x Llama-3.1-8B on rtx_pro_6000 TP2 ·",
    "single_node_cxl_instance": "Llama-3.1-8B on rtx_pro_6000 ·",
    "single_node_moe_multi_instance": "2 x Qwen3-30B-A3B-Instruct-2507 on rtx_pro_6000 ·",
    "single_node_moe_single_instance": "Qwen3-30B-A3B-Instruct-2507 on rtx_pro_6000 TP2 EP2 ·",
    "single_node_pim_instance": "Llama-3.1-8B on rtx_pro_6000 ·",
    "single_node_power_instance": "Llama-3.1-8B on rtx_pro_6000 ·",
    "single_node_single_instance_H100": "Llama-3.1-70B on h100 TP4 ·",
}
TABLES = "llmservingsim/profiles"
MEASURED = "vllm_qwen3_14b_h100/agg_2rps"


@pytest.mark.parametrize("name", RUN)
def test_cluster_file(cli: Cli, name: str) -> None:
    path = data_path(f"llmservingsim/configs/cluster/{name}.json")
    said = cli("run", f"cluster.file={path}", "workload.num_requests=12", "plots=false", "out=r", "scheduler=vllm_small")
    assert said.code == 0, said.err
    assert said.out.startswith(RUN[name])
    assert "12 of 12 requests" in said.out
    assert ("power=three_state simulates it" in said.err) == ('"power"' in path.read_text())


def test_every_cluster_file_is_read() -> None:
    paths = sorted(data_path("llmservingsim/configs/cluster").glob("*.json"))
    assert len(paths) == 27
    for path in paths:
        assert read_cluster(path, InstanceLimits()).instances


def test_a_trace_is_described_and_run(cli: Cli) -> None:
    path = data_path("traces/azure2023/AzureLLMInferenceTrace_conv.csv")
    said = cli("trace", "describe", str(path), "out=d")
    assert said.code == 0, said.err
    assert "19,366" in said.out
    assert {file.name for file in Path("d").iterdir()} == {"description.json", "trace.png", "config.yaml"}
    said = cli("run", "workload=trace", f"workload.file={path}", "workload.end_s=20", "plots=false", "out=r")
    assert said.code == 0, said.err
    assert pd.read_csv("r/requests.csv").arrival_s.max() < 20


def test_tables_are_fitted_and_used(cli: Cli) -> None:
    path = data_path(f"{TABLES}/RTX4090/meta-llama/Llama-3.1-8B/bf16")
    said = cli("profile", "fit", str(path), "out=fitted/mine.yaml")
    assert said.code == 0, said.err
    assert "gate_up_proj" in said.out
    assert "attention, decode" in said.out
    options = ["device=rtx_4090", "scheduler=vllm_small", "workload.num_requests=12", "workload.rate=1", "plots=false"]
    means = {}
    for name, source in {"profile": "profile=fitted/mine.yaml", "tables": f"profile.bundle_root={data_path(TABLES)}"}.items():
        said = cli("run", *options, source, f"out={name}")
        assert said.code == 0, said.err
        assert said.err == "", "nothing is extrapolated here"
        means[name] = json.loads(Path(name, "summary.json").read_text())["e2e_s"]["mean"]
    assert means["profile"] == pytest.approx(means["tables"], rel=0.03)


def test_tables_for_another_degree_model_or_variant(cli: Cli) -> None:
    root = f"profile.bundle_root={data_path(TABLES)}"
    assert "no profile of device 'h100' (known: RTX4090, RTXPRO6000)" in one_line(cli("run", root))
    line = one_line(cli("run", root, "device=rtx_pro_6000", "cluster.tensor_parallel_size=8"))
    assert "tensor_parallel_size 8 was not profiled (profiled: 1, 2)" in line
    assert "no profile of model 'Qwen/Qwen3-14B'" in one_line(cli("run", root, "device=rtx_pro_6000", "model=qwen3-14b"))
    assert "no profile of variant 'fp8' (known: bf16)" in one_line(cli("run", root, "device=rtx_pro_6000", "profile.variant=fp8"))


def test_validate(cli: Cli) -> None:
    path = data_path(MEASURED)
    said = cli("validate", str(path), "out=v")
    assert said.code == 0, said.err
    assert said.out.startswith("agg_2rps: ")
    written = {file.name for file in Path("v").iterdir()}
    assert {"validation.json", "summary.json", "requests.csv", "timeseries.csv", "config.yaml"} <= written
    assert any(name.endswith(".png") for name in written)
    report = json.loads(Path("v/validation.json").read_text())
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        for statistic in ("mean", "p50", "p90", "p95", "p99"):
            row = report[metric][statistic]
            assert row["error_pct"] == pytest.approx(100 * (row["simulated"] / row["measured"] - 1), rel=1e-9)
    assert {"ttft_mape_pct", "tpot_mape_pct", "e2e_mape_pct"} <= set(report["per_request"])
    assert "makespan" in report
    simulated = pd.read_csv("v/requests.csv")
    ttft = (simulated.first_token_s - simulated.arrival_s).mean()
    assert report["ttft_s"]["mean"]["simulated"] == pytest.approx(ttft, rel=1e-9)


def test_validate_checks_the_trace_it_is_given(cli: Cli) -> None:
    path = data_path(MEASURED)
    Path("short.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,10\n")
    line = one_line(cli("validate", str(path), "workload.file=short.csv"))
    assert line == "workload.file=short.csv: it has 1 requests, the measured run 1212"


def test_validate_finds_what_is_missing_in_a_run(cli: Cli) -> None:
    Path("run/vllm").mkdir(parents=True)
    Path("run/vllm/requests.jsonl").write_text("{}\n")
    assert one_line(cli("validate", "run")).startswith("run/vllm/meta.json: ")
