"""Parts of the help that no schema holds: what a command is for, how it is called, what it writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """The help of a command, without its options.

    Attributes:
        name: words of the command.
        title: purpose of the command in one line.
        usage: ways to call it.
        common: options below the top level that belong on the first screen.
        notes: results and exit codes; the end of the page.
    """

    name: str
    title: str
    usage: str
    common: tuple[str, ...] = ()
    notes: str = ""


MAIN = """\
simjax: simulate clusters that serve large language models

usage: simjax COMMAND [key=value ...]

commands
{commands}

  simjax run -m              many clusters in one call: swept keys, one table, its Pareto front
  simjax COMMAND --help      options of a command, with their defaults
  simjax COMMAND --cfg       the configuration that a command would use, as YAML
  --config FILE              options from a file, such as the config.yaml of a run; those of the command line win
  --config-dir DIR           a folder of your own: GROUP/NAME.yaml, hardware/NAME.yaml, models/NAME.json (SIMJAX_CONFIG_DIR)
  simjax --version

examples
  simjax run
  simjax run model=qwen3-32b device=h200 cluster.instances=2 cluster.router=least_loaded workload.rate=8
  simjax run workload=trace workload.file=trace.csv scheduler.max_num_seqs=128 out=results
  simjax run -m device=h100,h200 scheduler.max_num_seqs=32,64,128 'workload.rate=linspace(1,20,40)'
  simjax trace describe trace.csv

Options are Hydra overrides: key=value, lists in brackets, null for "unset"; quote what the shell would read.
Exit code: 0, also when a run stops at sim.max_ticks (see status in summary.json); 1 for a calibration that fits poorly
and for a point that is not reproduced; 2 for a mistake, explained in one line; 130 after Ctrl-C.
"""

_SIMULATED = (
    *("cluster.instances", "cluster.tensor_parallel_size", "cluster.router"),
    *("scheduler.max_num_seqs", "scheduler.max_num_batched_tokens"),
    *("workload.num_requests", "workload.rate", "workload.file"),
    "profile.file",
)

PAGES = {
    "run": Page(
        "run",
        "simulate a cluster on a workload: latencies, throughput, KV occupancy, plots",
        """
usage: simjax run [key=value ...]
       simjax run -m [key=value,value ...]      a sweep over all combinations; its grammar is at the end
""",
        (*_SIMULATED, "slo.ttft_s", "slo.tpot_s", "metrics.warmup_s", "uncertainty.draws"),
        """
results of a run, in the directory out
  summary.json          status, steady or not, latencies (mean, p50 ... max), throughput, KV use, sessions
  requests.csv          one row for each request: arrival, first step, first and last token, ...
  sessions.csv          one row for each session, if there are any: calls, makespan, tokens, ...
  timeseries.csv        one row for each bin and instance: running, waiting, KV use, tokens/s, hits
  links.csv             one row for each bin and link, with prefill and decode instances: bytes/s, share of capacity
  draws.csv             one row for each draw of uncertainty.draws: its parameters and numbers
  config.yaml           the whole configuration
  latency_cdf.png, timeline.png, sessions.png, ttft_parts.png, pools.png

sweeps
  -m key=a,b,c          values of any option but out, plots, timeline_interval_s, uncertainty.*, sweep.*, objective.*
  -m 'key=range(1,10)'  integers; likewise linspace(1,20,40), geomspace(1,64,7), logspace(-1,2,9) (powers of ten)
  -m cluster=one,routed presets of a group
  sweep=FILE.yaml       a sweep of your own; likewise workload=FILE.yaml and the other groups
  sweep.axes            the same without -m: 'sweep.axes={device: [h100, h200], workload.rate: "linspace(1,9,9)"}'
  sweep.zip             'sweep.zip=[{device: [h100, l40s], cluster.instances: [2, 5]}]'
  sweep.shard           -m sweep.shard=1/4,2/4,3/4,4/4 hydra/launcher=joblib starts all four parts as jobs
  hydra/sweeper=basic   Hydra's own sweeper: a job and a directory for each point, by hydra/launcher, in hydra.sweep.dir
  results               results.csv (.parquet), designs.csv, pareto.csv, pareto.png, rates.png, points.csv, sweep.json
""",
    ),
    "pareto": Page(
        "pareto",
        "the best points of a sweep: front, knee, plot",
        """
usage: simjax pareto DIR [key=value ...]

  simjax pareto outputs/2026-11-25_09-30-00_sweep 'objective.subject_to=[ttft_p99_s<=0.5]'
  simjax pareto outputs/2026-11-25_09-30-00_sweep objective.maximize=[] objective.minimize=[gpus,e2e_p95_s] out=cheap
""",
        notes="""
The front holds the points that no other one beats in every metric. Of two metrics, the knee is the point farthest from
the line between the two best ones; of more, the one closest to the best of each; all scaled to the front.
""",
    ),
    "show_point": Page(
        "show-point",
        "one point of a sweep as the single run that it stands for",
        "usage: simjax show-point DIR NUMBER [key=value ...]",
        notes="""
Prints the run's command, runs it, and compares its numbers with the sweep's table, bit for bit.
Exit code 1 when any differs.
""",
    ),
    "validate": Page(
        "validate",
        "replay a measured run and compare: measured / simulated / error",
        """
usage: simjax validate DIR|FILE [key=value ...]
       simjax validate FILE --template      writes server.yaml, to be filled in and given with --config server.yaml

DIR holds vllm/{requests.jsonl,meta.json,timeseries.csv} and LLMServingSim's config.json; or trace.csv or trace.csv.gz,
with server_config.json in it or in the parent directory; or inference-perf's exp-config.yaml and requests.csv.gz.
DIR may also be a run of simjax. FILE is the result of vllm bench serve --save-result --save-detailed, SGLang's
bench_serving --output-details, guidellm, aiperf, genai-perf or inference-perf, the requests.csv of a run, or a table
of your own: arrival_s, prompt_tokens, output_tokens, the first token (ttft_s, ttft_ms or first_token_s) and the last
one (e2e_s, e2e_ms, latency_s, finish_s, tpot_s or tpot_ms). What a file does not record is presumed, and named in a
line; device=, model=, cluster.tensor_parallel_size=, backend.release= and scheduler.* state it.
""",
        ("cluster.tensor_parallel_size", "profile.file", "profile.bundle_root", "workload.file"),
        "Results: validation.json, summary.json, requests.csv, timeseries.csv, config.yaml, overlay plots.",
    ),
    "calibrate": Page(
        "calibrate",
        "fit a latency profile to measured runs, with error bars",
        """
usage: simjax calibrate FILE|DIR [key=value ...]
       simjax calibrate measured=[FILE|DIR,...] [key=value ...]

  simjax calibrate result.json device=h100 model=qwen3-8b
""",
        ("profile.file", "workload.file", "points.file"),
        """
Results: profile.yaml, calibration.json, calibration.png, posterior.png, config.yaml.
Then: simjax validate DIR profile=OUT/profile.yaml, simjax run profile=OUT/profile.yaml uncertainty.draws=64
Exit code: 1 when the fit is poor; everything is written nonetheless.
The hand-over between prefill and decode instances is fitted by simjax handover fit.
""",
    ),
    "handover": Page(
        "handover fit",
        "fit link efficiency, set-up and hand-over times of prefill/decode clusters to measurements",
        """
usage: simjax handover fit [TRANSFERS.csv] [requests=REQUESTS.csv] [key=value ...]

  simjax handover fit transfers.csv model=qwen3-8b network.inter_bandwidth_bytes_per_s=25e9
  simjax handover fit requests=measured.csv model=qwen3-8b cluster.prefill.instances=3 cluster.decode.instances=1
""",
        ("cluster.prefill.instances", "cluster.decode.instances", "network.inter_bandwidth_bytes_per_s", "profile.file"),
        """
TRANSFERS.csv: a size (bytes, blocks or prompt_tokens) and a time (transfer_s, transfer_ms or transfer_us) of transfers
that had their path to themselves, from the first prefill to the first decode instance; perhaps block_size.
REQUESTS.csv: arrival_s, prompt_tokens, output_tokens, and ttft_s, ttft_ms or first_token_s; the closer the better:
prefill_finish_s, transfer_start_s, transfer_end_s on the same clock, or transfer_s, transfer_ms. The requests.csv of a
run is one; so is the result file of a load generator.
Results: handover.yaml, calibration.json, config.yaml. Then: simjax run disaggregation=OUT/handover.yaml
Exit code: 1 when the fit is poor; everything is written nonetheless. A parameter at its bound is warned of.
""",
    ),
    "power_fit": Page(
        "power fit",
        "fit the power of devices to the log of a meter",
        """
usage: simjax power fit LOG [key=value ...]

  simjax power fit nvidia-smi.csv model=qwen3-14b device=h100 workload=trace workload.file=requests.csv
  simjax power fit server.csv model=llama-3.1-8b device=rtx_a6000 workload=trace workload.file=requests.csv latest_s=60
""",
        (*_SIMULATED, "power.file"),
        """
LOG: nvidia-smi's or DCGM's CSV, lines of ipmitool, a query of Prometheus, or CSV with t_s and power_w; of devices or of a server,
with a sample every second or two.
The options are those of the run that was served while the meter ran. What the meter saw is divided over the devices.
Results: power.yaml, calibration.json, power_fit.png, config.yaml. Then, with all that the meter saw and nothing else:
simjax run power=utilization power.file=OUT/power.yaml power.node=false
Exit code: 1 when the fit is poor; everything is written nonetheless.
""",
    ),
    "capacity": Page(
        "capacity",
        "the highest rate that a cluster holds under its SLO, or the fewest instances for a rate",
        """
usage: simjax capacity [key=value ...]
       simjax capacity -m [key=value,value ...]      all designs in one search

  simjax capacity slo.ttft_s=1 slo.tpot_s=0.05
  simjax capacity -m device=h100,h200 scheduler.max_num_seqs=64,128,256 slo.ttft_s=1
  simjax capacity capacity.rate=48 model=qwen3-32b device=h200 slo.ttft_s=1
""",
        (
            *("cluster.instances", "cluster.tensor_parallel_size", "cluster.router", "scheduler.max_num_seqs"),
            *("workload.file", "profile.file", "slo.ttft_s", "slo.tpot_s", "slo.e2e_s", "capacity.rate", "capacity.seeds"),
        ),
        """
A rate passes when most workloads are steady at it and the requests of all of them that are measured meet every slo.*
limit but for a share of 1 - capacity.attainment. Without limits the capacity is the highest steady rate. The arrivals of a
workload are the same at all rates, only faster or slower; the search sets their rate and their number.
The interval holds the bracket in which the search ended and the randomness of the load; not that of the profile.
Results: capacity.json, capacity.png, config.yaml; of several designs results.csv (simjax pareto reads it), points.csv.
""",
    ),
    "explain": Page(
        "explain",
        "where latencies come from: each statistic as a sum of parts, and the run as a trace for Perfetto",
        "usage: simjax explain [key=value ...]",
        (*_SIMULATED,),
        """
Parts: API, queue (of it: while the KV cache was too short for the prompt), prefill, others' prefill in the same steps,
decode, host, preempted, left out of steps, hand-over, transfer; they add up to every request's latency. API and the
ends of queue, prefill, hand-over and transfer are logged; steps are divided between a request and others by prompt
tokens, and those that gave a request no token are counted, for the log does not say which these were.
Not with pp stages and speculative decoding, whose steps overlap or give several tokens.
Results: explain.csv (statistics), parts.csv (requests), explain.png, trace.json, config.yaml.
""",
    ),
    "sensitivity": Page(
        "sensitivity",
        "what would help most: effects of parameters on latencies and throughput",
        "usage: simjax sensitivity [key=value ...]",
        (*_SIMULATED, "slo.ttft_s", "slo.tpot_s"),
        """
Elasticities, in percent of an output for a percent of a parameter, compare simulations of the same requests on both
sides of a parameter. Gradients are derivatives with the schedule held (same steps, same batches, only longer or
shorter): where the two differ, scheduling matters. Limits, arrivals and what moves KV caches have no gradient, for
reasons that are printed. A difference of 0 may be a change too small to cross the end of a step (step=0.2).
Results: sensitivity.csv, sensitivity.json, sensitivity.png, config.yaml.
""",
    ),
    "describe": Page(
        "trace describe",
        "statistics and a plot of a request trace",
        """
usage: simjax trace describe FILE [key=value ...]

FILE is a CSV, JSON Lines or Parquet file (gzip and zstd too), the result file of a load generator (vllm bench, SGLang,
guidellm, aiperf, genai-perf, inference-perf), or a session file or a directory of them (workload.file).
""",
        (
            *("workload.num_requests", "workload.rate", "workload.file", "workload.format", "workload.on_bad_row"),
            *("workload.unanswered", "workload.trace_clock", "workload.block_tokens", "workload.only_model"),
            *("workload.start_s", "workload.end_s", "workload.jitter_s"),
        ),
        "Results: description.json, trace.png, config.yaml.",
    ),
    "export": Page(
        "trace export",
        "write a run as a result of vLLM's benchmark",
        """
usage: simjax trace export FILE [out=RESULT.json]

  simjax trace export outputs/RUN/requests.csv out=simulated.json
""",
        notes="""
FILE is the requests.csv of a run, or any file or folder that simjax validate reads. RESULT.json is what vllm bench
serve --save-result --save-detailed writes; a request's gaps between tokens are all its mean gap.
""",
    ),
    "fit": Page(
        "profile fit",
        "turn measured op tables into a compact latency profile",
        """
usage: simjax profile fit DIR [out=PROFILE.yaml]

DIR holds meta.yaml and tp<N>/{dense,per_sequence,attention}.csv (moe.csv, skew.csv).
""",
        notes="Then: simjax run device=... model=... profile=PROFILE.yaml",
    ),
    "import_operators": Page(
        "profile import",
        "fit a profile to the operators of an installed database",
        """
usage: simjax profile import DEVICE [out=PROFILE.yaml]

  pip install aiconfigurator-core pyarrow
  simjax profile import h200 out=h200.yaml
  simjax profile import b200 only=[gemm_fp8,experts_*]   # of vLLM these only
""",
        notes="""
Efficiencies and factors by shape of matrix products and experts, by format of weights, with their errors on shapes that
were left out. Then: simjax run device=... model=... profile=PROFILE.yaml
""",
    ),
}
"""The page of every command, by the key of its schema."""
