"""What `--help` prints."""

from __future__ import annotations

MAIN = """\
simjax: simulate clusters that serve large language models

usage: simjax COMMAND [key=value ...]

commands
  run              simulate a cluster on a workload: latencies, throughput, KV occupancy, plots
  validate         replay a measured run and compare: measured / simulated / error
  trace describe   statistics and a plot of a request trace
  profile fit      turn measured op tables into a compact latency profile

  simjax COMMAND --help      options of a command
  simjax COMMAND --cfg       the configuration a command would use, as YAML
  simjax --version

examples
  simjax run
  simjax run model=qwen3-32b device=h200 cluster.instances=2 cluster.router=least_loaded workload.rate=8
  simjax run workload=trace workload.file=trace.csv scheduler.max_num_seqs=128 out=results
  simjax trace describe AzureLLMInferenceTrace_conv.csv
"""

RUN = """\
simjax run: simulate a cluster on a workload

usage: simjax run [key=value ...]

what runs where
  model=NAME|PATH                  {models}
                                   or the path of a Hugging Face config.json
  device=NAME|PATH                 {devices}
                                   or the path of a YAML file like profiles/hardware/h100.yaml
  cluster.instances=1              engines
  cluster.tensor_parallel_size=1   devices an engine is spread over
  cluster.router=round_robin       round_robin | random | least_loaded | least_kv
  cluster.groups=[...]             engines of several kinds: '[{{instances: 2, device: h100}}, {{device: l40s, max_num_seqs: 64}}]'
  cluster.file=FILE.json           a cluster in LLMServingSim's schema

engine limits (vLLM's flags)
  scheduler=NAME                   {schedulers}
  scheduler.max_num_seqs=256  scheduler.max_num_batched_tokens=8192  scheduler.long_prefill_token_threshold=0
  scheduler.enable_chunked_prefill=true  scheduler.async_scheduling=true  scheduler.reserve_full_isl=true
  scheduler.gpu_memory_utilization=0.9  scheduler.num_gpu_blocks_override=N  scheduler.block_size=16
  scheduler.max_model_len=N  scheduler.kv_cache_dtype=auto|fp8

requests
  workload=NAME                    {workloads}
  workload.rate=4                  requests/s          workload.num_requests=300   workload.duration_s=60   workload.seed=0
  workload.prompt.mean=860         workload.output.mean=650       (dist, cv, min, max: see --cfg)
  workload=trace workload.file=F   LLMServingSim, vLLM bench, Azure, BurstGPT, Mooncake, Vidur, or arrival_s,prompt_tokens,output_tokens
  workload=closed_loop workload.concurrency=32 workload.think_s=0

what a step costs
  profile=FILE.yaml                a latency profile (default: the one shipped for the device and the model)
  profile.bundle_root=DIR          measured op tables in DIR/<device>/<model>/<variant>/tp<N>
  profile.step_s=S  profile.api_pre_s=S  profile.api_post_s=S      host and API times in seconds

results
  out=DIR                          summary.json, requests.csv, timeseries.csv, config.yaml, plots (default: a dated folder under outputs/)
  slo.ttft_s=S  slo.tpot_s=S  slo.e2e_s=S      goodput under these limits
  plots=false  timeline_interval_s=1  sim.leap=true  sim.max_ticks=N
"""

VALIDATE = """\
simjax validate: replay a measured run and compare it with its simulation

usage: simjax validate measured=DIR [key=value ...]

  measured=DIR              config.json (LLMServingSim's schema), vllm/meta.json, vllm/requests.jsonl, vllm/timeseries.csv
                            or trace.csv.gz with server_config.json in the parent folder
                            or inference-perf's exp-config.yaml and requests.csv.gz
  profile.bundle_root=DIR   step costs from measured op tables in DIR/<device>/<model>/<variant>/tp<N>
  profile=FILE.yaml         step costs from a latency profile (default: the shipped one)
  device=NAME  model=NAME   what the run does not record, or records otherwise
  scheduler.KEY=VALUE       as in simjax run; default: what the run recorded
  workload.file=FILE        the trace that was replayed, checked against the measured requests
  out=DIR                   validation.json, summary.json, requests.csv, timeseries.csv, overlay plots
"""

DESCRIBE = """\
simjax trace describe: statistics of a request trace

usage: simjax trace describe FILE [key=value ...]

  workload.format=auto                    {formats}
  workload.on_bad_row=error|skip          malformed rows stop the command, or are skipped and counted
  workload.start_s=S  workload.end_s=S    a window       workload.num_requests=N    the first N
  workload.rate=R  workload.rate_scale=F  stretched or compressed to a rate, or by a factor
  out=DIR                                 description.json and trace.png (default: a dated folder under outputs/)
"""

FIT = """\
simjax profile fit: turn measured op tables into a compact latency profile

usage: simjax profile fit bundle=DIR [out=PROFILE.yaml]

  bundle=DIR   a profile bundle: meta.yaml and tp<N>/dense.csv, per_sequence.csv, attention.csv (, moe.csv, skew.csv)
  out=PATH     where to write: a .yaml file, or a folder for profile.yaml (default: a dated folder under outputs/)
"""


def text(command: str | None) -> str:
    """The help of a command (a key of `simjax.config.compose.SCHEMAS`), or of the program."""
    from simjax.hardware import device_names
    from simjax.model import model_names
    from simjax.paths import CONF
    from simjax.workload.formats import FORMATS

    def options(group: str) -> str:
        return " | ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))

    if command is None:
        return MAIN
    template = {"run": RUN, "validate": VALIDATE, "describe": DESCRIBE, "fit": FIT}[command]
    return template.format(
        models=", ".join(model_names()),
        devices=", ".join(device_names()),
        schedulers=options("scheduler"),
        workloads=options("workload"),
        formats=" | ".join(["auto", *FORMATS]),
    )
