"""Tiny measured runs in each layout, and results that match them."""

import gzip
import json
import re
from pathlib import Path

import pandas as pd

from simjax.engine.host.result import Result
from simjax.validate.run import MeasuredRun
from tests.metrics.factory import make_result, request_log

META = {
    "model": "org/model",
    "vllm_version": "0.19.0",
    "engine_kwargs": {
        "tensor_parallel_size": 2,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 2048,
        "max_model_len": None,
        "dtype": "bfloat16",
    },
    "started_at": "1970-01-12T13:46:40Z",  # 1,000,000 s after the epoch
    "tick_seconds": 1.0,
}
CLUSTER = {
    "link_bw": 16,
    "link_latency": 20000,
    "nodes": [
        {
            "instances": [
                {
                    "model_name": "org/model",
                    "hardware": "GPU1",
                    "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_util": 0.85},
                    "num_npus": 2,
                    "tp_size": 2,
                }
            ]
        }
    ],
}
# vLLM queues the first request 1 ms after it arrives (the clocks' alignment), the second 31 ms after. The file is not in order.
ROWS = [
    {"input_toks": 20, "output_toks": 1, "arrival_time": 1000002.5, "queued_ts": 52.531, "first_token_ts": 53.0, "last_token_ts": 53.0},
    {"input_toks": 10, "output_toks": 5, "arrival_time": 1000000.5, "queued_ts": 50.501, "first_token_ts": 51.501, "last_token_ts": 53.501},
]


def llmservingsim(folder: Path, meta=META, cluster=CLUSTER, rows=ROWS) -> Path:
    (folder / "vllm").mkdir(parents=True)
    (folder / "vllm" / "meta.json").write_text(json.dumps(meta))
    (folder / "vllm" / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "vllm" / "timeseries.csv").write_text(
        "t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct\n1.0,10.0,0.0,1,0,2.5\n2.0,0.0,2.0,1,3,5.0\n"
    )
    if cluster is not None:
        (folder / "config.json").write_text(json.dumps(cluster))
    return folder


SERVER = {
    "vllm_version": "0.13.1",
    "model": "org/model",
    "max_seq_len": 40960,
    "tensor_parallel_size": 1,
    "enable_chunked_prefill": True,
    "max_num_batched_tokens": 8192,
    "enable_prefix_caching": False,
    "block_size": 16,
    "num_gpu_blocks": 100,
}
TRACE = """input_tokens,output_tokens,server_input_tokens,send_time_us,first_chunk_time_us,last_chunk_time_us,status
1024,3,1010,1782183938500000,1782183938600000,1782183938700000,ok
1024,3,0,1782183938000000,1782183938050000,1782183938250000,ok
1024,3,900,1782183938100000,,,error
"""


def request_trace(parent: Path, server=SERVER, trace=TRACE) -> Path:
    folder = parent / "agg_2rps"
    folder.mkdir(parents=True)
    (parent / "server_config.json").write_text(json.dumps(server))
    with gzip.open(folder / "trace.csv.gz", "wt") as file:
        file.write(trace)
    return folder


def inference_perf(parent: Path) -> Path:
    folder = parent / "exp-1"
    folder.mkdir(parents=True)
    (parent / "index.csv").write_text("experiment,kv_blocks,block_size\nexp-0,1,16\nexp-1,7462,16\n")
    (folder / "exp-config.yaml").write_text(
        "model: org/model\ntensor_parallelism: 2\nmax_model_len: 4096\nmax_num_batched_tokens: 2048\nmax_num_seqs: 128\n"
    )
    with gzip.open(folder / "requests.csv.gz", "wt") as file:
        file.write(
            "index,arrival_s,input_tokens,client_counted_output_tokens,server_output_tokens_nominal,prompt_id_mod100,ttft_s,e2e_s,error\n"
            "0,5.0,591,140,11,0,0.1,1.1,0\n1,6.0,600,48,11,1,0.2,2.2,0\n2,6.5,600,48,11,1,,,1\n"
        )
    return folder


def answer(run: MeasuredRun, stretch: float = 1.0) -> Result:
    """A simulation with exactly the measured latencies, or `stretch` times these."""
    rows = []
    for i in range(len(run)):
        arrival = float(run.arrival_s[i])
        rows.append(
            dict(
                arrival_s=arrival,
                scheduled_s=arrival,
                first_token_s=arrival + stretch * float(run.ttft_s[i]),
                finish_s=arrival + stretch * float(run.e2e_s[i]),
                prompt_tokens=int(run.prompt_tokens[i]),
                output_tokens=int(run.output_tokens[i]),
            )
        )
    return make_result(request_log(*rows))


def peer_result(path: Path) -> Result:
    """LLMServingSim's own prediction, `peer/sim.csv` (integer nanoseconds), as a result in request order."""
    sim = pd.read_csv(path, usecols=["request id", "input", "output", "arrival", "latency", "TTFT"]).sort_values("request id")
    rows = [
        dict(
            arrival_s=row.arrival / 1e9,
            scheduled_s=row.arrival / 1e9,
            first_token_s=(row.arrival + row.TTFT) / 1e9,
            finish_s=(row.arrival + row.latency) / 1e9,
            prompt_tokens=row.input,
            output_tokens=row.output,
        )
        for row in sim.itertuples()
    ]
    return make_result(request_log(*rows))


def peer_summary(path: Path) -> dict[tuple[str, str], tuple[float, float, float]]:
    """`peer_summary.txt`: (metric, statistic) -> measured ms, simulated ms, difference in percent, as printed."""
    names = {
        "TTFT": "ttft_s",
        "TPOT": "tpot_s",
        "Latency": "e2e_s",
        "Mean": "mean",
        "Median": "p50",
        "P90": "p90",
        "P95": "p95",
        "P99": "p99",
    }
    rows = re.findall(r"^(TTFT|TPOT|Latency) (\w+)\s+([\d.]+)\s+([\d.]+)\s+([+-][\d.]+)%", path.read_text(), re.M)
    assert len(rows) == 15
    return {(names[m], names[s]): (float(a), float(b), float(c)) for m, s, a, b, c in rows}
