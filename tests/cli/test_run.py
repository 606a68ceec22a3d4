"""`simjax run` end to end: the files it writes, and what its options do to them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from simjax.disk.paths import PROFILES
from tests.cli.conftest import Cli, one_line

SMALL = ["workload.num_requests=60", "plots=false"]
REQUESTS = "request_id,instance,prompt_tokens,output_tokens,cached_tokens,arrival_s,scheduled_s,first_token_s,finish_s,preemptions,status"
TIMES = ["arrival_s", "scheduled_s", "first_token_s", "finish_s"]
SERIES = "t_s,instance,running,waiting,kv_used_fraction,prompt_tokens_per_s,output_tokens_per_s,power_w"
SERIES += ",kv_cached_fraction,prefix_hit_fraction"
STATISTICS = {"mean", "p50", "p90", "p95", "p99", "max"}


def simulate(cli: Cli, out: str, *options: str, code: int = 0) -> tuple[dict[str, Any], pd.DataFrame]:
    """The summary and the requests of a run."""
    said = cli("run", *SMALL, f"out={out}", *options)
    assert said.code == code, said.err
    return json.loads(Path(out, "summary.json").read_text()), pd.read_csv(Path(out, "requests.csv"))


def test_files_and_their_contract(cli: Cli) -> None:
    said = cli("run", "workload.num_requests=60", "metrics={warmup_s: 0, cooldown_s: 0}", "out=r")
    assert said.code == 0, said.err
    out = Path("r")
    assert {path.name for path in out.iterdir()} == {
        "summary.json",
        "requests.csv",
        "timeseries.csv",
        "config.yaml",
        "latency_cdf.png",
        "timeline.png",
    }
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["requests"] == {"total": 60, "finished": 60, "unfinished": 0, "preemptions": 0}
    assert set(summary["throughput"]) == {"requests_per_s", "prompt_tokens_per_s", "output_tokens_per_s"}
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        assert set(summary[name]) == STATISTICS
        assert 0 < summary[name]["p50"] <= summary[name]["p99"] <= summary[name]["max"]
    assert set(summary["kv"]) == {"num_blocks", "peak_used_fraction", "prefix_hit_fraction", "evicted_blocks", "peak_cached_fraction"}
    assert set(summary["energy"]) == {"total_j", "per_output_token_j", "mean_power_w"}
    assert {"cost", "duration_s"} <= set(summary)
    assert set(summary["sim"]) == {"ticks", "steps", "compile_s", "run_s"}
    assert (out / "requests.csv").read_text().splitlines()[0] == REQUESTS
    assert (out / "timeseries.csv").read_text().splitlines()[0] == SERIES
    requests, series = pd.read_csv(out / "requests.csv"), pd.read_csv(out / "timeseries.csv")
    assert len(requests) == 60
    assert (requests[TIMES].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None), "a request's times go backwards"
    ttft = (requests.first_token_s - requests.arrival_s).mean()
    assert summary["ttft_s"]["mean"] == pytest.approx(ttft, rel=1e-12)
    width = series.t_s.diff().iloc[1]
    assert (series.output_tokens_per_s * width).sum() == pytest.approx(requests.output_tokens.sum(), rel=1e-9)
    assert yaml.safe_load((out / "config.yaml").read_text())["workload"]["num_requests"] == 60


def test_the_summary_is_printed(cli: Cli) -> None:
    said = cli("run", *SMALL, "out=r")
    summary = json.loads(Path("r/summary.json").read_text())
    lines = said.out.splitlines()
    assert lines[0].startswith("Llama-3.1-8B on h100 · poisson, 4 requests/s  finished  60 of 60 requests in ")
    assert next(line for line in lines if line.startswith("TTFT")).split()[1] == f"{summary['ttft_s']['mean'] * 1e3:.2f}"
    assert lines[-1] == "results in r"


def test_plots_can_be_left_out(cli: Cli) -> None:
    simulate(cli, "r")
    assert not list(Path("r").glob("*.png"))


def test_a_run_is_reproducible(cli: Cli) -> None:
    first, _ = simulate(cli, "a")
    second, _ = simulate(cli, "b")
    for name in ("requests.csv", "timeseries.csv"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
    for summary in (first, second):
        summary["sim"]["compile_s"] = summary["sim"]["run_s"] = 0.0
    assert first == second
    configs = [yaml.safe_load(Path(name, "config.yaml").read_text()) for name in "ab"]
    assert configs[0] | {"out": None} == configs[1] | {"out": None}


def test_the_seed_changes_the_workload(cli: Cli) -> None:
    _, first = simulate(cli, "a")
    _, second = simulate(cli, "b", "workload.seed=1")
    assert (first.arrival_s != second.arrival_s).any()
    assert (first.prompt_tokens != second.prompt_tokens).any()


def test_step_by_step_gives_the_same_requests(cli: Cli) -> None:
    # few blocks: with preemptions
    options = ["scheduler.num_gpu_blocks_override=400", "workload.rate=20"]
    leaping, a = simulate(cli, "a", *options)
    stepping, b = simulate(cli, "b", *options, "sim.leap=false")
    assert leaping["requests"]["preemptions"] > 0
    assert leaping["sim"]["steps"] == stepping["sim"]["steps"]
    assert leaping["sim"]["ticks"] < stepping["sim"]["ticks"]
    pd.testing.assert_frame_equal(a, b, check_exact=False, rtol=1e-9, atol=0)


def test_engines_of_several_kinds(cli: Cli) -> None:
    groups = "cluster.groups=[{instances: 2, device: h100}, {device: h200, model: qwen3-14b, max_num_seqs: 4}]"
    summary, requests = simulate(cli, "r", groups, "workload.rate=20")
    assert len(summary["instances"]) == 3
    assert requests.instance.value_counts().to_dict() == {0: 20, 1: 20, 2: 20}, "round robin"
    blocks = [instance["num_blocks"] for instance in summary["instances"]]
    assert blocks[0] == blocks[1] != blocks[2]
    series = pd.read_csv("r/timeseries.csv")
    assert series.running[series.instance == 2].max() == pytest.approx(4)
    assert series.running[series.instance == 0].max() > 4
    tpot = (requests.finish_s - requests.first_token_s) / (requests.output_tokens - 1)
    assert tpot[requests.instance == 2].median() > 1.2 * tpot[requests.instance == 0].median(), "the larger model is the slower one"


def test_a_router_that_looks_at_the_load(cli: Cli) -> None:
    groups = "cluster.groups=[{device: h200}, {device: l40s}]"
    _, blind = simulate(cli, "a", groups, "workload.rate=12")
    _, seeing = simulate(cli, "b", groups, "workload.rate=12", "cluster.router=least_loaded")
    assert (blind.instance == 0).sum() == 30
    assert (seeing.instance == 0).sum() > 30, "the faster engine gets more"


def test_closed_loop(cli: Cli) -> None:
    _, requests = simulate(cli, "r", "workload=closed_loop", "workload.concurrency=8", "workload.num_requests=60", "workload.think_s=0.5")
    events = sorted([(t, 1) for t in requests.arrival_s] + [(t, -1) for t in requests.finish_s])
    in_flight = most = 0
    for _, change in events:
        in_flight += change
        most = max(most, in_flight)
    assert most == 8
    arrivals = requests.arrival_s.sort_values()
    finishes = requests.finish_s.sort_values()
    assert arrivals.iloc[8] == pytest.approx(finishes.iloc[0] + 0.5, rel=1e-12)


def test_trace(cli: Cli) -> None:
    Path("trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,100,5\n0.5,2000,1\n7,30,9\n")
    summary, requests = simulate(cli, "r", "workload=trace", "workload.file=trace.csv")
    assert summary["requests"]["total"] == 3
    assert requests.arrival_s.tolist() == [0.0, 0.5, 7.0]
    assert requests.prompt_tokens.tolist() == [100, 2000, 30]
    assert requests.output_tokens.tolist() == [5, 1, 9]


SESSIONS = ["workload=sessions", "workload.num_requests=null", "workload.num_sessions=20", "workload.rate=2"]


def test_sessions_and_their_files(cli: Cli) -> None:
    said = cli("run", *SESSIONS, "scheduler.num_gpu_blocks_override=1500", "out=r")
    assert said.code == 0, said.err
    summary = json.loads(Path("r/summary.json").read_text())
    requests, sessions, series = (pd.read_csv(f"r/{name}.csv") for name in ("requests", "sessions", "timeseries"))
    assert Path("r/requests.csv").read_text().splitlines()[0] == REQUESTS + ",session,turn,delay_s"
    assert summary["sessions"]["total"] == summary["sessions"]["finished"] == len(sessions) == 20
    assert summary["sessions"]["makespan_s"]["mean"] == pytest.approx(sessions.makespan_s.mean(), rel=1e-12)
    by_session = requests.groupby("session", sort=False)
    spans = by_session.finish_s.max() - by_session.arrival_s.min()
    assert sessions.makespan_s.to_numpy() == pytest.approx(spans[sessions.session].to_numpy(), rel=1e-12)
    waited = by_session.delay_s.sum()[sessions.session]  # of a conversation nothing overlaps: it waits when its user thinks
    assert sessions.waiting_s.to_numpy() == pytest.approx(waited.to_numpy(), rel=1e-9, abs=1e-9)
    later = requests[requests.turn > 0]
    assert summary["sessions"]["later_turns"]["cached_fraction"] == pytest.approx(later.cached_tokens.sum() / later.prompt_tokens.sum())
    assert summary["kv"]["evicted_blocks"] > 0 and summary["kv"]["peak_cached_fraction"] == 1.0
    assert (series.kv_cached_fraction.diff().iloc[1:] > -1e-9).all() and (series.kv_cached_fraction > series.kv_used_fraction - 1e-9).all()
    assert Path("r/sessions.png").exists()
    lines = said.out.splitlines()
    assert any(line.startswith("sessions") and "20 of 20 finished, makespan mean " in line for line in lines)
    assert any(line.startswith("KV cache") and "cached blocks evicted" in line for line in lines)


def test_the_requests_of_conversations_can_be_replayed(cli: Cli) -> None:
    limits = "scheduler.num_gpu_blocks_override=1500"
    _, before = simulate(cli, "a", *SESSIONS, limits)
    _, after = simulate(cli, "b", "workload=trace", "workload.num_requests=null", "workload.file=a/requests.csv", limits)
    assert after.cached_tokens.tolist() == before.cached_tokens.tolist() and before.cached_tokens.sum() > 0
    for name in TIMES:  # a trace starts at its first arrival
        assert after[name].to_numpy() == pytest.approx((before[name] - before.arrival_s.min()).to_numpy(), rel=1e-9, abs=1e-9)


def test_sessions_in_a_sweep(cli: Cli) -> None:
    said = cli("run", "-m", *SESSIONS, "scheduler.num_gpu_blocks_override=1500,3000", "plots=false", "out=s")
    assert said.code == 0, said.err
    table = pd.read_csv("s/results.csv")
    assert (table.kv_evicted_blocks > 0).tolist() == [True, True] and table.session_makespan_mean_s.is_monotonic_decreasing
    assert (table.session_makespan_p99_s > table.session_makespan_mean_s).all()
    assert "numbers of the row reproduced" in cli("show-point", "s", "1", "plots=false", "out=p").out


def test_prefix_caching_can_be_turned_off(cli: Cli) -> None:
    on, _ = simulate(cli, "a", "workload=shared_prefix")
    off, _ = simulate(cli, "b", "workload=shared_prefix", "scheduler.enable_prefix_caching=false")
    assert on["kv"]["prefix_hit_fraction"] > 0.3 and off["kv"]["prefix_hit_fraction"] == 0.0
    assert on["ttft_s"]["mean"] < off["ttft_s"]["mean"]
    assert off["kv"]["peak_cached_fraction"] is None and 0.0 < on["kv"]["peak_cached_fraction"] < 1.0


def test_the_measurement_window(cli: Cli) -> None:
    summary, requests = simulate(cli, "r", "metrics.warmup_s=6", "metrics.cooldown_s=5")
    start, end = requests.arrival_s.min() + 6.0, requests.finish_s.max() - 5.0
    inside = requests[requests.arrival_s.between(start, end)]
    assert 10 < len(inside) < 50 and summary["window"]["requests"] == len(inside)
    assert summary["ttft_s"]["mean"] == pytest.approx((inside.first_token_s - inside.arrival_s).mean(), rel=1e-12)
    finish_s = np.sort(requests.finish_s)
    low, high = finish_s[finish_s <= start].max(), finish_s[finish_s <= end].max()
    assert summary["throughput"]["requests_per_s"] == pytest.approx(((finish_s > low) & (finish_s <= high)).sum() / (high - low), rel=1e-12)


def test_an_overload_is_not_steady_by_default_and_says_what_could_be_served(cli: Cli) -> None:
    said = cli("run", "workload.rate=40", "workload.num_requests=1000", "scheduler.max_num_seqs=32", "plots=false", "out=r")
    assert said.code == 0 and "not steady" in said.out
    summary = json.loads(Path("r/summary.json").read_text())
    assert summary["steady"] is False and 30 < summary["backlog_growth_per_s"] < 40
    served = summary["window"]["saturated_requests_per_s"]
    assert served == pytest.approx(40 - summary["backlog_growth_per_s"], rel=0.2)
    assert any(line.startswith("not steady: ") and f"capacity is about {served:.3g} requests/s" in line for line in summary["warnings"])


def test_service_levels(cli: Cli) -> None:
    summary, requests = simulate(cli, "r", "slo.ttft_s=0.05", "slo.e2e_s=6", "metrics={warmup_s: 0, cooldown_s: 0}")
    met = (requests.first_token_s - requests.arrival_s <= 0.05) & (requests.finish_s - requests.arrival_s <= 6)
    assert 0 < met.mean() < 1
    assert summary["slo"]["limits"] == {"ttft_s": 0.05, "e2e_s": 6.0}
    assert summary["slo"]["attainment_fraction"] == pytest.approx(met.mean())
    assert summary["slo"]["goodput_requests_per_s"] == pytest.approx(met.sum() / summary["duration_s"])


def test_tick_limit_is_a_status_and_a_note_not_an_error(cli: Cli) -> None:
    said = cli("run", *SMALL, "out=r", "sim.max_ticks=50")
    assert said.code == 0
    assert "note: the run stopped at its tick limit; latencies and throughput cover the" in " ".join(said.out.split())
    summary, requests = json.loads(Path("r/summary.json").read_text()), pd.read_csv("r/requests.csv")
    assert summary["status"] == "tick_limit"
    assert summary["sim"]["ticks"] == 50
    assert 0 < summary["requests"]["finished"] < 60
    assert (requests.status == "finished").sum() == summary["requests"]["finished"]
    assert requests.finish_s.isna().sum() == summary["requests"]["unfinished"]


def test_host_and_api_times(cli: Cli) -> None:
    _, bare = simulate(cli, "a", "profile.api_pre_s=0", "profile.api_post_s=0")
    _, later = simulate(cli, "b", "profile.api_pre_s=0", "profile.api_post_s=0.25")
    moved = later.first_token_s - bare.first_token_s
    assert moved.to_numpy() == pytest.approx(0.25, abs=1e-9)
    _, slower = simulate(cli, "c", "profile.step_s=0.01")
    assert (slower.finish_s - slower.first_token_s).sum() > 1.5 * (bare.finish_s - bare.first_token_s).sum()


def test_warns_where_a_profile_is_used_for_something_else(cli: Cli) -> None:
    other = PROFILES / "latency" / "rtx_pro_6000" / "llama-3.1-8b.yaml"
    said = cli("run", *SMALL, f"profile={other}", "model=codellama-34b", "scheduler=vllm_small", "out=r")
    assert said.code == 0
    name = "latency/rtx_pro_6000/llama-3.1-8b.yaml"
    assert f"warning: {name}: measured on rtx_pro_6000, used for h100\n" in said.err
    assert f"warning: {name}: measured for meta-llama/Llama-3.1-8B, used for codellama/CodeLlama-34b-Instruct-hf\n" in said.err
    warnings = json.loads(Path("r/summary.json").read_text())["warnings"]
    assert f"{name}: measured on rtx_pro_6000, used for h100" in warnings
    assert any(re.match(r"p99 of the latencies rest on only \d\d finished requests", line) for line in warnings) and "note: p99" in said.out
    assert "used for h100" not in said.out, "it is said once"


def test_warns_of_contexts_that_were_not_measured(cli: Cli) -> None:
    long = ["workload.prompt.dist=fixed", "workload.prompt.tokens=20000", "workload.prompt.max=null", "workload.num_requests=4"]
    said = cli("run", *SMALL, *long, "device=rtx_pro_6000", "scheduler=vllm_small", "scheduler.max_model_len=30000", "out=r")
    assert said.code == 0, said.err
    longest = pd.read_csv("r/requests.csv").eval("prompt_tokens + output_tokens").max()
    assert f"the longest request has {longest} tokens, the longest measured context 16384" in said.err
    assert "vLLM would not start" not in said.err


def test_a_device_and_a_model_of_the_users(cli: Cli) -> None:
    device = yaml.safe_load((PROFILES / "hardware" / "h100.yaml").read_text())
    Path("half.yaml").write_text(yaml.safe_dump(device | {"memory_bandwidth_bytes_per_s": device["memory_bandwidth_bytes_per_s"] / 2}))
    config = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    config |= {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "torch_dtype": "bfloat16"}
    Path("mine.json").write_text(json.dumps(config))
    whole, _ = simulate(cli, "a", "model=mine.json")
    half, _ = simulate(cli, "b", "model=mine.json", "device=half.yaml", f"profile={PROFILES}/latency/h100/generic.yaml")
    assert half["tpot_s"]["mean"] > 1.3 * whole["tpot_s"]["mean"]


def test_dated_directories_do_not_collide(cli: Cli) -> None:
    for _ in range(3):
        assert cli("run", *SMALL).code == 0
    assert len(list(Path("outputs").iterdir())) == 3


def test_an_existing_directory_is_kept_when_a_run_fails(cli: Cli) -> None:
    Path("mine").mkdir()
    one_line(cli("run", "model=llama-3.1-70b", "out=mine"))
    assert Path("mine").is_dir()
    one_line(cli("run", "model=llama-3.1-70b", "out=new"))
    assert not Path("new").exists()
