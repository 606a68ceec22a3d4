"""What `--help` prints."""

from __future__ import annotations

import textwrap

MAIN = """\
simjax: simulate clusters that serve large language models

usage: simjax COMMAND [key=value ...]

commands
  run              simulate a cluster on a workload: latencies, throughput, KV occupancy, plots
  run -m           many clusters in one call: swept keys, one table, its Pareto front
  pareto           the best points of a sweep: front, knee, plot
  show-point       one point of a sweep as the single run that it stands for
  validate         replay a measured run and compare: measured / simulated / error
  calibrate        fit a latency profile to measured runs, with error bars
  sensitivity      what would help most: effects of parameters on latencies and throughput
  trace describe   statistics and a plot of a request trace
  profile fit      turn measured op tables into a compact latency profile

  simjax COMMAND --help      options of a command
  simjax COMMAND --cfg       the configuration a command would use, as YAML
  simjax --version

examples
  simjax run
  simjax run model=qwen3-32b device=h200 cluster.instances=2 cluster.router=least_loaded workload.rate=8
  simjax run workload=trace workload.file=trace.csv scheduler.max_num_seqs=128 out=results
  simjax run -m device=h100,h200 scheduler.max_num_seqs=32,64,128 'workload.rate=linspace(1,20,40)'
  simjax trace describe trace.csv

Options are Hydra overrides: key=value, lists in brackets, null for "unset"; quote what the shell would read.
Exit code: 0, also when a run stops at sim.max_ticks (see status in summary.json); 1 for a calibration that fits poorly;
2 for a mistake, told in one line; 130 after Ctrl-C.
"""

RUN = """\
simjax run: simulate a cluster on a workload

usage: simjax run [key=value ...]
       simjax run -m [key=value,value ...]    a sweep: see the end

what runs where
  model=NAME|PATH                  {models}
                                   or the path of a Hugging Face config.json
  device=NAME|PATH                 {devices}
                                   or the path of a YAML file like profiles/hardware/h100.yaml
  cluster.instances=1              engines
  cluster.tensor_parallel_size=1   devices an engine is spread over
  cluster.router=round_robin       {routers}
  cluster.router_prefix_weight=1  cluster.router_queue_weight=1  cluster.router_kv_weight=1    of the weighted router
  cluster.router_staleness_s=0     age at which the router renews its view of the engines and their prefix caches
  cluster.groups=[...]             engines of several kinds, each with its instances, model, device, degree, limits:
                                   'cluster.groups=[{{instances: 2, device: h100}}, {{device: l40s, max_num_seqs: 64}}]'
  cluster.file=FILE.json           a cluster in LLMServingSim's schema; the limits it sets win over scheduler.*
  cluster.link_bandwidth_bytes_per_s=B  cluster.link_latency_s=S   between the devices of an engine

engine limits (vLLM's flags)
  scheduler=NAME                   {schedulers}
  scheduler.max_num_seqs=256  scheduler.max_num_batched_tokens=8192  scheduler.long_prefill_token_threshold=0
  scheduler.enable_chunked_prefill=true  scheduler.async_scheduling=true  scheduler.reserve_full_isl=true
  scheduler.gpu_memory_utilization=0.9  scheduler.num_gpu_blocks_override=N  scheduler.block_size=16
  scheduler.kv_cache_memory_bytes=B  scheduler.max_model_len=N  scheduler.kv_cache_dtype=auto|fp8
  scheduler.enable_prefix_caching=true   (default: where the workload tells what its requests share)
  scheduler.enforce_eager=false  scheduler.cudagraph_mode=full_and_piecewise|full_decode_only|none

requests
  workload=NAME                    {workloads}
  workload.rate=4                  requests/s
  workload.num_requests=300        workload.duration_s=60         workload.seed=0
  workload.prompt.mean=860         workload.output.mean=650
  workload.prompt.dist=lognormal   fixed (tokens) | uniform (low, high) | lognormal (mean or median, cv or sigma) |
                                   zipf (alpha, max) | trace (file); min and max clip; the same for workload.output
  workload=trace workload.file=F   LLMServingSim, vLLM bench, Azure, BurstGPT, Mooncake, Vidur, kv-cache-tester (a file
                                   or a directory of them), or a CSV with arrival_s,prompt_tokens,output_tokens
                                   and, where there are, session,delay_s (calls that wait for the one before)
                                   or prefix_key,prefix_tokens (prompts that start alike)
  workload.session_rate=R  workload.num_sessions=N     of a trace with sessions: new starts at random, the first N
  workload=closed_loop workload.concurrency=32 workload.think_s=0
  workload=shared_prefix           prompts that start with system prompts: workload.prefix.groups=8 of
                                   workload.prefix.tokens=1024, the k-th as popular as k^-workload.prefix.zipf
  workload=sessions                conversations: workload.rate=0.5 that start a second, workload.num_sessions=60,
                                   workload.turns.mean=5 calls, workload.followup.mean=150 new tokens in a later prompt,
                                   workload.think_s=10 before it (workload.think_dist=exponential|fixed),
                                   workload.max_context_tokens=32000; workload.prefix.* too

what a step costs
  profile=FILE.yaml                a latency profile (default: the one shipped for the device and the model)
  profile.bundle_root=DIR          measured op tables in DIR/<device>/<model>/<variant>/tp<N>
  profile.variant=bf16             which tables
  profile.step_s=S  profile.api_pre_s=S  profile.api_post_s=S      host and API times (default: the profile's)
  'profile.parameters={{NAME: X}}'   on top of the profile: factors on efficiencies, like gemm_bandwidth: 1.1, or numbers
                                   instead of its own, like layer_s: 2e-6; names: simjax calibrate --help

how sure that is
  uncertainty.draws=64             intervals beside the numbers: the run again with draws of its parameters, from
                                   the profile's calibration (or priors), wider where the run leaves what that has seen
  uncertainty.level=0.9            probability of the intervals   uncertainty.seed=0   of the draws

results
  out=DIR                          where they go (default: a dated folder under outputs/)
                                   summary.json     status, latencies (mean, p50 ... max), throughput, KV use, sessions
                                   requests.csv     a row a request: arrival, first step, first and last token, ...
                                   sessions.csv     a row a session, where there are any: calls, makespan, tokens, ...
                                   timeseries.csv   a row a bin and instance: running, waiting, KV use, tokens/s, hits
                                   config.yaml      the whole configuration
                                   latency_cdf.png, timeline.png, sessions.png (plots=false: none)
                                   draws.csv        a row a draw: its parameters and numbers (uncertainty.draws)
  slo.ttft_s=S  slo.tpot_s=S  slo.e2e_s=S      adds attainment and goodput under these limits
  timeline_interval_s=S            width of a bin
  sim.max_ticks=N                  stop there with status tick_limit
  sim.leap=false                   step by step: the same results, slower

sweeps: all combinations of the swept keys, simulated side by side
  -m key=a,b,c                     values of any option (not out, plots, sweep.*, objective.*); also, in quotes,
                                   range(1,10) of integers, linspace(1,20,40), geomspace(1,64,7), logspace(-1,2,9)
  sweep=NAME                       {sweeps}
                                   or your own: 'sweep.axes={{device: [h100, h200], workload.rate: "linspace(1,9,9)"}}'
  'sweep.zip=[{{...}}]'              keys that step together, like {{device: [h100, l40s], cluster.instances: [2, 5]}}
  sweep.points=FILE.csv            a column a key, a row a point
  sweep.seeds=5                    every point with workload.seed 0 to 4 (or a list of seeds), and means in designs.csv
  sweep.dry_run=true               say what would be simulated: groups, chunks, compilations, memory
  sweep.resume=DIR                 go on with a sweep that was stopped
  sweep.width=N                    designs simulated side by side (default: what is fastest)
  sweep.shard=2/4                  one of four parts; -m sweep.shard=1/4,2/4,3/4,4/4 hydra/launcher=joblib starts all
  objective.maximize=[COLUMN,...]  objective.minimize=[COLUMN,...]  'objective.subject_to=[ttft_p99_s<=0.5,...]'
  out=DIR                          results.csv (.parquet), designs.csv, pareto.csv, pareto.png, points.csv, sweep.json
  hydra/sweeper=basic              Hydra's own: a job and a folder a point, by hydra/launcher, into hydra.sweep.dir=DIR
"""

SHOW_POINT = """\
simjax show-point: one point of a sweep as the single run that it stands for

usage: simjax show-point DIR NUMBER [key=value ...]

  DIR           a sweep's folder
  NUMBER        of the point, as in the first column of its results.csv
  out=DIR       where the run's files go, as in simjax run (default: a dated folder under outputs/)
  plots=false   no plots

Prints the run's command, runs it, and compares its numbers with the sweep's table, bit for bit.
Exit code 1 when any differs.
"""

PARETO = """\
simjax pareto: the best points of a sweep, from its table

usage: simjax pareto DIR [key=value ...]

  DIR                              a sweep's folder, done or not; for several shards the folder that holds them
  objective.maximize=[COLUMN,...]  columns of results.csv; with several seeds their means are compared
  objective.minimize=[COLUMN,...]
  'objective.subject_to=[ttft_p99_s<=0.5,tpot_p99_s<=0.05]'
                                   constraints: <=, >=, < or > and a number in the column's unit
                                   what is not given is the sweep's own objective; [] is none
  out=DIR                          where pareto.csv and pareto.png go (default: into the sweep's folder)
  plots=false                      no pareto.png

The front holds the points that no other one beats in every metric. Of two metrics, the knee is the point farthest from
the line between the two best ones; of more, the one closest to the best of each; all scaled to the front.

  simjax pareto outputs/2026-11-25_09-30-00_sweep 'objective.subject_to=[ttft_p99_s<=0.5]'
  simjax pareto outputs/2026-11-25_09-30-00_sweep objective.maximize=[] objective.minimize=[gpus,e2e_p95_s] out=cheap
"""

VALIDATE = """\
simjax validate: replay a measured run and compare it with its simulation

usage: simjax validate DIR [key=value ...]

  measured=DIR              the same as naming DIR; a folder that holds
                              vllm/{{requests.jsonl,meta.json,timeseries.csv}} and LLMServingSim's config.json, or
                              trace.csv or trace.csv.gz, with server_config.json beside it or in the parent folder, or
                              inference-perf's exp-config.yaml and requests.csv.gz
  profile.bundle_root=DIR   step costs from measured op tables in DIR/<device>/<model>/<variant>/tp<N>
  profile=FILE.yaml         step costs from a latency profile (default: the shipped one)
  profile.step_s=S  profile.api_pre_s=S  profile.api_post_s=S      host and API times in seconds
  device=NAME  model=NAME  cluster.tensor_parallel_size=N          what the run does not record, or records otherwise
  scheduler.KEY=VALUE       as in simjax run; default: what the run recorded
  workload.file=FILE        the trace that was replayed, checked against the measured requests; its token ids, if it has
                            any, tell what the prefix cache finds
  out=DIR                   where results go (default: a dated folder under outputs/): validation.json, summary.json,
                            requests.csv, timeseries.csv, config.yaml, overlay plots (plots=false: none)
"""

CALIBRATE = """\
simjax calibrate: fit a latency profile to measured runs

usage: simjax calibrate measured=[DIR,...] [key=value ...]

  measured=[DIR,...]        runs to fit (layouts: simjax validate --help), all on one device; together, if there are several
  held_out=[DIR,...]        runs that are only scored
  tables=[DIR,...]          op tables (folders with meta.yaml) to fit beside runs, or alone with device=NAME
  points.file=FILE.csv      mean TTFT and TPOT of deployments in closed loops, beside runs or alone with device=NAME; of it
                            points.models=[...] points.backends=[vllm] points.precision=bf16
  profile=FILE.yaml         where the fit begins: a latency profile (default: the shipped ones of the device),
  profile.bundle_root=DIR   or measured op tables, DIR/<device>/<model>/<variant>/tp<N>; those of all models are fitted
  device=NAME  model=NAME  cluster.tensor_parallel_size=N  scheduler.KEY=VALUE      as in simjax validate
  workload.file=[FILE,...]  the traces that were replayed, for what their token ids say that prompts share
  out=DIR                   where results go (default: a dated folder under outputs/): profile.yaml, calibration.json,
                            calibration.png, posterior.png (plots=false: none), config.yaml

what is fitted
  parameters={{NAME: {{...}}}}  of each parameter: free (true or false), prior (median), sd (of its logarithm), tie (another one)
                            {parameters}
  profile.api_pre_s=S       a host time that is known, and not fitted
  fit.method=auto           lm (Levenberg-Marquardt) | lbfgs | adam        fit.starts=8  fit.max_steps=40  fit.seed=0
  fit.first_fraction=0.5    fit the first half of each run, score the other half as held out
  loss.weight=1             weight of the measurements against the priors    loss.outlier=3

Then: simjax validate DIR profile=OUT/profile.yaml, simjax run profile=OUT/profile.yaml uncertainty.draws=64
Exit code: 1 when the fit is poor or a parameter sits on its bound; everything is written all the same.
"""

SENSITIVITY = """\
simjax sensitivity: by how many percent the numbers of a run change when a parameter does by one percent

usage: simjax sensitivity [key=value ...]

  model device cluster.* scheduler.* workload.* profile.* slo.* sim.*      the run, as in simjax run
  outputs=[ttft_mean_s,...]    columns of a sweep's results.csv; the table is sorted by the first one
                               (default: means and P99 of TTFT and TPOT, mean E2E latency, output tokens/s;
                               with slo.* goodput)
  parameters=[NAME,...]        which ones (default: all that matter)
                               load and limits: arrival_rate, concurrency (closed loops), num_gpu_blocks,
                               max_num_seqs, max_num_batched_tokens
                               hardware: memory_bandwidth, peak_flops, link_bandwidth, link_latency
                               profile: gemm_bandwidth, decode_attention, step_s, api_pre_s, ... as in profile.parameters
  step=0.02                    relative change of a parameter, up and down (integers: by 1 at least)
  seeds=4                      workloads that the numbers are means over, from workload.seed on; a trace has one
  out=DIR                      sensitivity.csv, sensitivity.json, sensitivity.png (plots=false: none), config.yaml
                               (default: a dated folder under outputs/)

Elasticities compare simulations of the same requests on both sides of a parameter. Gradients are derivatives with the
schedule held (same steps, same batches, only longer or shorter): where the two differ, scheduling matters.
"""

DESCRIBE = """\
simjax trace describe: statistics of a request trace

usage: simjax trace describe FILE [key=value ...]

  FILE                                    CSV, JSON Lines or Parquet, gzip too; a session file or a directory of them
  workload.format=auto                    {formats}
  workload.on_bad_row=error|skip          malformed rows stop the command, or are skipped and counted
  workload.start_s=S  workload.end_s=S    a window       workload.num_requests=N    the first N
  workload.rate=R  workload.rate_scale=F  stretched or compressed to a rate, or by a factor
  workload.jitter_s=S                     spreads the arrivals of a clock that ticks so coarsely
  workload.session_rate=R                 starts the sessions at random         workload.num_sessions=N    the first N
  block_size=16  cache_blocks=[N,...]     prefix caches whose hits are told, where the trace tells what is shared
  out=DIR                                 description.json, trace.png, config.yaml (default: a folder under outputs/)
"""

FIT = """\
simjax profile fit: turn measured op tables into a compact latency profile

usage: simjax profile fit DIR [out=PROFILE.yaml]

  bundle=DIR   the same as naming DIR; with meta.yaml and tp<N>/{{dense,per_sequence,attention}}.csv (moe.csv, skew.csv)
  out=PATH     where to write: a .yaml file, or a folder for profile.yaml (default: a dated folder under outputs/)

Then: simjax run device=... model=... profile=PROFILE.yaml
"""

_COLUMN, _WIDTH = 35, 120  # where the right column starts, and the longest line


def text(command: str | None) -> str:
    """The help of a command (a key of `simjax.config.compose.SCHEMAS`), or of the program."""
    if command is None:
        return MAIN
    from simjax.cluster.spec import ROUTERS
    from simjax.config.explain import group_options
    from simjax.hardware import device_names
    from simjax.latency.priors import PARAMETERS, STEP_CORRECTIONS
    from simjax.model import model_names
    from simjax.workload.formats import FORMATS

    template = {
        "run": RUN,
        "show_point": SHOW_POINT,
        "pareto": PARETO,
        "validate": VALIDATE,
        "calibrate": CALIBRATE,
        "sensitivity": SENSITIVITY,
        "describe": DESCRIBE,
        "fit": FIT,
    }[command]
    return template.format(
        models=_list(model_names()),
        parameters=_list([name for name in PARAMETERS if name not in STEP_CORRECTIONS], 28),
        devices=_list(device_names()),
        routers=_list(list(ROUTERS)),
        schedulers=_list(group_options("scheduler")),
        workloads=_list(group_options("workload")),
        sweeps=_list([name for name in group_options("sweep") if name != "none"]),
        formats=_list(["auto", *FORMATS], _COLUMN + 7),
    )


def _list(names: list[str], column: int = _COLUMN) -> str:
    """Choices, wrapped so that they stay in their column."""
    lines = textwrap.wrap(" | ".join(names), _WIDTH - column, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * column}".join(lines)
