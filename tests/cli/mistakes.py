"""Mistakes on the command line, and what is said about each; `test_bad_input` makes them all."""

import pytest

FILES = {
    "empty.csv": "",
    "header.csv": "arrival_s,prompt_tokens,output_tokens\n",
    "negative.csv": "arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,-5,3\n",
    "word.csv": "arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,abc,3\n",
    "short.csv": "arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,3\n",
    "long.csv": "arrival_s,prompt_tokens,output_tokens\n0,100000,100000\n",
    "good.csv": "arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,3,2\n",
    "other.csv": "a,b,c\n1,2,3\n",
    "brace.json": "{",
    "object.json": "{}",
    "list.json": "[]",
    "no_instances.json": '{"nodes": []}',
    "no_device.json": '{"nodes": [{"instances": [{"model_name": "meta-llama/Llama-3.1-8B"}]}]}',
    "list.yaml": "- 1",
    "field.yaml": "a: 1",
    "bracket.yaml": "a: [",
    "folder/x": "",
    "swept/results.csv": "point,device,status,reason,ttft_p99_s,tpot_p99_s,goodput_per_gpu\n0,h100,finished,,0.5,0.01,3.0\n",
    "begun/sweep.json": "{}",
}


def cases(text: str) -> list:
    """One case a pair of lines: the words after `simjax`, and a part of the line that is said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [pytest.param(words.split(), part, id=words) for words, part in zip(lines[::2], lines[1::2], strict=True)]


OPTIONS = cases(
    """
    run scheduler.max_num_seq=4
    unknown option 'scheduler.max_num_seq'; did you mean max_num_seqs
    run +foo=1
    unknown option 'foo'; known: backend, cluster, device, disaggregation,
    run ++workload.xyz.bar=1
    unknown option 'workload.xyz'; known: block_tokens, classes, concurrency, cv,
    run foo
    'foo' is not an option of simjax run; options look like key=value (simjax run --help lists them)
    run --foo
    '--foo' is not an option of simjax run
    run ~model
    '~model' is not an option of simjax run
    run =x
    '=x' is not an option
    run scheduler.max_num_seqs=[1
    cannot read 'scheduler.max_num_seqs=[1'
    run device=h100,h200
    device=h100,h200: several values are a sweep: add -m; or quote a value that holds a comma or parentheses
    run workload.rate=linspace(1,20,40)
    workload.rate=linspace(1,20,40): several values are a sweep: add -m
    run workload.rate=range(3)
    workload.rate=range(3): several values are a sweep: add -m
    validate device=h100,h200
    device=h100,h200: several values are a sweep: give one
    run hydra.run.dir=x
    'hydra.run.dir=x': Hydra's own settings affect sweeps only (-m); out=DIR names the directory of the results
    run hydra/launcher=basic
    'hydra/launcher=basic': Hydra's own settings affect sweeps only (-m)
    run model=${nothing}
    model: Interpolation key 'nothing' not found
    run model=???
    model: Missing mandatory value
    run workload=poison
    workload=poison: there is no such option; did you mean poisson?
    run scheduler=vlm
    scheduler=vlm: there is no such option; did you mean vllm?
    run scheduler.max_num_seqs=abc
    scheduler.max_num_seqs=abc: it must be an integer
    run scheduler.max_num_seqs=1.5
    scheduler.max_num_seqs=1.5: it must be an integer
    run scheduler.gpu_memory_utilization=high
    scheduler.gpu_memory_utilization=high: it must be a number
    run plots=maybe
    plots=maybe: it must be true or false
    run cluster.groups=3
    cluster.groups: it must be a list, in brackets
    run model=[1,2]
    model: Cannot convert 'list' to string
    validate scheduler=vllm
    'scheduler' is a group of options here; set its keys one by one: scheduler.max_num_seqs,
    validate cluster.groups=[{instances:2}]
    unknown option 'cluster.groups'; did you mean router?
    profile fit bundel=x
    unknown option 'bundel'; did you mean bundle?
    run --cfg hydra
    --cfg hydra: there is only --cfg (or --cfg job), which shows the configuration of simjax run
    run -m --cfg=all device=h100,h200
    --cfg all: there is only --cfg (or --cfg job)
    pareto --cfg all
    --cfg all: there is only --cfg (or --cfg job), which shows the configuration of simjax pareto
    trace describe good.csv good.csv
    'good.csv' is not an option of simjax trace describe
    """
)

RANGES = cases(
    """
    run scheduler.max_num_seqs=0
    scheduler.max_num_seqs=0: it must be an integer of at least 1
    run scheduler.max_num_batched_tokens=1000000000
    scheduler.max_num_batched_tokens=1000000000: it must be at most 4194304
    run scheduler.block_size=0
    scheduler.block_size=0: it must be an integer of at least 1
    run scheduler.gpu_memory_utilization=1.5
    scheduler.gpu_memory_utilization=1.5: it must lie in (0, 1]
    run scheduler.kv_cache_dtype=fp3
    scheduler.kv_cache_dtype=fp3: not one of vLLM's --kv-cache-dtype that are simulated; did you mean fp8
    run cluster.instances=0
    cluster.instances=0: it must be at least 1
    run cluster.tensor_parallel_size=0
    cluster.tensor_parallel_size=0: it must be at least 1
    run cluster.tensor_parallel_size=3
    num_attention_heads=32 cannot be divided by tensor_parallel_size=3
    run cluster.router=fastest
    cluster.router=fastest: there is no such router; known: dynamo, least_kv, least_loaded, llm_d, longest_prefix, random, round_robin
    run cluster.link_latency_s=-1
    cluster.link_latency_s=-1.0: it must be a number of seconds that is not negative
    run cluster.link_bandwidth_bytes_per_s=0
    cluster.link_bandwidth_bytes_per_s=0.0: it must be positive
    run workload.rate=-1
    workload: rate=-1; it must be positive
    run workload.rate=nan
    workload: rate=nan; it must be positive
    run workload.rate=null
    workload.rate is not set; kind=poisson needs it
    run workload.num_requests=0
    workload: num_requests=0; it must be at least 1
    run workload.seed=-1
    workload.seed=-1; it must not be negative
    run workload.prompt.mean=-4
    workload.prompt: mean=-4 tokens; it must be positive
    run workload.output.dist=fixed workload.output.tokens=-3
    workload.output: tokens=-3 tokens; it must be at least 1
    run workload.prompt.dist=lognorm
    workload.prompt.dist='lognorm' is not known; did you mean lognormal
    run workload=closed_loop workload.concurrency=0
    workload: concurrency=0; a closed loop keeps at least 1 request in flight
    run workload.prompt.tokens=100 workload.output.tokens=50
    workload.prompt.tokens=100 has no effect with dist=lognormal, only with fixed
    run -m workload.prompt.tokens=128,1024,8192
    workload.prompt.tokens=128 has no effect with dist=lognormal, only with fixed
    run workload.output.file=good.csv
    workload.output.file=good.csv has no effect with dist=lognormal, only with trace
    run cluster.router_kv_weight=2
    cluster.router_kv_weight=2.0 has no effect with router=round_robin, only with weighted
    run scheduler.num_gpu_blocks_override=1000 scheduler.gpu_memory_utilization=0.8
    scheduler.gpu_memory_utilization=0.8 has no effect with num_gpu_blocks_override=1000; leave one of them out
    run objective.maximize=[gpus]
    objective.maximize has no effect without a sweep
    run -m device=h100,h200 timeline_interval_s=1
    timeline_interval_s=1 has no effect in a sweep
    run workload=closed_loop workload.rate=4
    workload.rate=4.0 has no effect with kind=closed_loop
    run profile.step_s=-1
    profile.step_s=-1.0: it must be a number of seconds that is not negative
    run profile.api_pre_s=nan
    profile.api_pre_s=nan: it must be a number of seconds that is not negative
    run slo.ttft_s=-1
    slo.ttft_s=-1.0: it must be a positive number of seconds
    run sim.max_ticks=0
    sim.max_ticks=0: it must be at least 1
    run timeline_interval_s=0
    timeline_interval_s=0.0: it must be a positive number of seconds
    run timeline_interval_s=1e-9 workload.num_requests=12
    that is more than 5,000,000 bins
    """
)

CLUSTERS = cases(
    """
    run device=h900
    unknown device 'h900'; did you mean h200 or h100
    run device=none.yaml
    cannot read device file none.yaml: No such file or directory
    run device=field.yaml
    device file field.yaml: fields 'memory_bytes', 'memory_bandwidth_bytes_per_s', 'peak_flops' are missing
    run device=list.yaml
    device file list.yaml must hold a mapping
    run model=lama-3.1-8b
    unknown model 'lama-3.1-8b'; did you mean llama-3.1-8b
    run model=
    unknown model ''; known:
    run model=none.json
    cannot read model file none.json: No such file or directory
    run model=brace.json
    model file brace.json is not valid
    run model=object.json
    object.json: model_type 'missing' is not supported; known: llama,
    run model=folder
    cannot read model file folder/config.json: No such file or directory
    run model=llama-3.1-70b
    meta-llama/Llama-3.1-70B does not fit h100 with tensor_parallel_size=1: weights 131.4 GiB
    run scheduler.num_gpu_blocks_override=20
    can never be served: the KV cache of meta-llama/Llama-3.1-8B on h100 holds 304 tokens (19 blocks)
    run scheduler.max_model_len=100
    can never be served: max_model_len is 100
    run scheduler.enable_chunked_prefill=false scheduler.max_num_batched_tokens=512
    can never be served: without chunked prefill it must fit max_num_batched_tokens=512
    run cluster.groups=[3]
    cluster.groups[0]: a group is a mapping like {instances: 2, device: h100}, got 3
    run cluster.groups=[{instances:2},{devise:h100}]
    cluster.groups[1]: unknown key 'devise'; did you mean device?
    run cluster.groups=[{instances:two}]
    cluster.groups[0].instances=two: it must be an integer
    run cluster.groups=[{instances:0}]
    cluster.groups[0]: instances=0: it must be at least 1
    run cluster.groups=[{},{max_num_seqs:-1}]
    cluster.groups[1]: max_num_seqs=-1: it must be an integer of at least 1
    run cluster.groups=[{device:h900}]
    cluster.groups[0]: unknown device 'h900'
    run cluster.groups=[{},{}] cluster.instances=3
    cluster.instances=3 has no effect with cluster.groups
    run cluster.file=none.json
    none.json: no such cluster file
    run cluster.file=folder
    cannot read cluster file folder: Is a directory
    run cluster.file=brace.json
    brace.json:1: not valid JSON
    run cluster.file=list.json
    list.json: not a cluster file of LLMServingSim's schema: it needs 'nodes'
    run cluster.file=no_instances.json
    no_instances.json: it has no instances
    run cluster.file=no_device.json
    no_device.json: instance 0: 'hardware' is missing
    run cluster.file=object.json device=h200
    device=h200 has no effect with cluster.file
    run cluster.file=object.json cluster.groups=[{instances:2}]
    cluster.file and cluster.groups are both set
    """
)

READING = cases(
    """
    run workload=trace
    workload.file is not set; kind=trace needs it
    run workload.file=good.csv
    workload.file=good.csv has no effect with kind=poisson, only with trace
    run workload=trace workload.file=none.csv
    none.csv: no such file
    run workload=trace workload.file=folder
    folder: a directory, not a trace file
    run workload=trace workload.file=empty.csv
    empty.csv: the file is empty
    run workload=trace workload.file=header.csv
    header.csv: the trace has no usable request
    run workload=trace workload.file=negative.csv
    negative.csv:3: prompt_tokens=-5 must be at least 1 (on_bad_row=skip leaves such rows out)
    run workload=trace workload.file=word.csv
    word.csv:3: prompt_tokens=abc is not a number
    run workload=trace workload.file=short.csv
    short.csv:3: 2 fields where the header names 3
    run workload=trace workload.file=long.csv
    long.csv: request 0 (100000 prompt + 100000 output tokens) can never be served
    run workload=trace workload.file=other.csv
    other.csv: cannot tell the format from its columns (a, b, c); known formats: bailian, genai_perf, inference_perf, kvcache_tester
    run workload=trace workload.file=good.csv workload.format=azzure
    unknown trace format 'azzure'; did you mean azure
    run workload=trace workload.file=good.csv workload.on_bad_row=ignore
    on_bad_row='ignore' is not known; use error or skip
    run workload=trace workload.file=good.csv workload.start_s=100
    no request arrives in the window [100, inf) s; arrivals lie between 0 and 1 s
    trace describe
    no trace file given: simjax trace describe FILE
    trace describe none.csv
    none.csv: no such file
    trace describe word.csv
    word.csv:3: prompt_tokens=abc is not a number
    trace describe good.csv workload.rate=-1
    the rate is -1 requests/s; it must be positive
    profile fit
    no bundle given: simjax profile fit DIR
    profile fit none
    none: no tpN folder; give the folder of a bundle that holds meta.yaml
    run profile=none.yaml
    cannot read latency profile none.yaml: No such file or directory
    run profile=field.yaml
    latency profile field.yaml: field 'device' is missing
    run profile=bracket.yaml
    latency profile bracket.yaml is not valid YAML
    run profile=field.yaml profile.bundle_root=folder
    profile.file and profile.bundle_root are both set
    run profile.bundle_root=folder
    folder: no profile of device 'h100' (there is none)
    validate
    no measured run given: simjax validate DIR
    validate none
    none: no such folder; a measured run is a folder
    validate good.csv
    good.csv: no column for the first token
    validate measured=folder
    folder: not a measured run; it has none of vllm/requests.jsonl, trace.csv.gz, trace.csv, exp-config.yaml
    """
)

SWEEPS = cases(
    """
    run -m
    nothing to sweep: give a key several values, like scheduler.max_num_seqs=32,64, or sweep=NAME
    run -m device=h100
    nothing to sweep: give a key several values
    run sweep.dry_run=true
    nothing to sweep: give a key several values
    run -m --foo device=h100,h200
    '--foo' is not an option of simjax run
    run -m ~device scheduler.max_num_seqs=1,2
    '~device' is not an option of simjax run
    run -m devise=h100,h200
    unknown option 'devise'; did you mean device?
    run -m modle=x device=h100,h200
    unknown option 'modle'; did you mean model or profile?
    run -m workload=poison device=h100,h200
    workload=poison: there is no such option; did you mean poisson?
    run -m slo=a,b
    'slo' is a group of options here; set its keys one by one
    run -m cluster=a,b
    none of the 2 points can be simulated; point 0: cluster=a: there is no such option; known: disaggregated, heterogeneous, one, routed
    run cluster=rooted
    cluster=rooted: there is no such option; did you mean routed?
    validate cluster=one
    'cluster' is a group of options here; set its keys one by one: cluster.tensor_parallel_size,
    run -m scheduler.max_num_seqs=abc device=h100,h200
    scheduler.max_num_seqs=abc: it must be an integer
    run -m cluster.groups=[{},{}] cluster.instances=3 device=h100,h200
    cluster.instances=3 has no effect with cluster.groups
    run -m device=h100,h200 device=l40s
    device is given twice: device=h100,h200 and device=l40s
    run -m device=h100,h200 device=l40s,b200
    device is given twice: device=h100,h200 and device=l40s,b200
    run -m profile=good.csv,other.csv profile.file=good.csv
    profile.file is given twice
    run -m +workload.rate=1,2
    +workload.rate=1,2: leave the + out: workload.rate has a value, and these replace it
    run -m +workload.rate=linspace(1,2,3)
    +workload.rate=linspace(1,2,3): leave the + out
    run -m +workload.rate=3 device=h100,h200
    +workload.rate: leave the + out: workload.rate has a value, and yours replaces it
    run -m +workload.rat=1,2
    unknown option 'workload.rat'; did you mean rate
    run -m out=a,b
    out cannot be swept: a sweep has one directory of results
    run -m plots=true,false
    plots cannot be swept
    run -m sweep.width=1,2
    sweep.width cannot be swept: it is an option of the sweep itself
    run -m sweep=sizing,replicates
    sweep cannot be swept: it is an option of the sweep itself
    run -m hydra.job.name=a,b device=h100,h200
    Sweeping over Hydra's configuration is not supported : 'hydra.job.name=a,b'
    run -m workload.num_requests=1,2 scheduler.max_num_batched_tokens=${workload.num_requests}
    workload.num_requests cannot be swept: scheduler.max_num_batched_tokens refers to it (${workload.num_requests})
    run -m device=${model},h200
    an interpolation cannot be a swept value
    run -m workload.rate=range(0.1,1,0.1)
    range is for integers (Hydra's versions disagree about floats); use linspace(1,20,40)
    run -m workload.rate=interval(1,2)
    workload.rate=interval(1,2): an interval is continuous and needs a search
    run -m workload.rate=linspace(1,20)
    workload.rate=linspace(1,20): linspace takes two numbers and the number of values
    run -m workload.rate=geomspace(0,2,3)
    both ends must be positive, or both negative
    run -m workload.rate=linspace(1,2,0)
    linspace of 0 values: it must be at least 1
    run -m scheduler.max_num_seqs=linspace(1,20,40)
    scheduler.max_num_seqs=1.4871794871794872: it takes integers
    run -m workload.rate=linspce(1,2)
    cannot read 'workload.rate=linspce(1,2)' (Unknown function 'linspce')
    run -m workload.rate=[1,2 device=h100,h200
    cannot read 'workload.rate=[1,2'
    run -m model=glob(*)
    model=glob(*): glob is not supported; list the choices: a,b,c
    run -m workload.rate=1,2,1
    workload.rate: 1 is given twice
    run -m hydra/launcher=joblb device=h100,h200
    hydra/launcher=joblb: there is no such option, or its package is not installed;
    run -m hydra/sweeper=smijax device=h100,h200
    hydra/sweeper=smijax: there is no such option, or its package is not installed; did you mean simjax?
    run -m hydra.foo=1 device=h100,h200
    hydra.foo: Hydra has no such setting
    run -m hydra/sweeper=basic devise=h100,h200
    unknown option 'devise'; did you mean device?
    run -m hydra/sweeper=basic device=h100,h200 out=x
    out=x: all jobs would write there; hydra.sweep.dir=DIR gives each a folder in DIR
    run -m hydra.sweeper.params={model:x} device=h100,h200
    hydra.sweeper.params: model=x: it holds swept keys only
    run -m sweep=sizing device=h100,h200
    device is swept twice, by sweep.axes and by the command line; leave one of them out
    run sweep=sizing device=h100
    device=h100: device is swept; leave out this value, or the axis
    run sweep=sizng
    sweep=sizng: there is no such option; did you mean sizing?
    run sweep.sed=1
    unknown option 'sweep.sed'; did you mean seeds
    run sweep.axes=3
    sweep.axes: it must be a mapping, in braces
    run sweep.axes={modle:[a]}
    unknown option 'modle'; did you mean model
    run sweep.axes.workload.rate=[]
    workload.rate: 0 values to sweep over
    run sweep.zip=[3]
    sweep.zip[0]: it must be a mapping like {device: [h100, h200], workload.rate: [4, 6]}
    run sweep.zip=[{device:[h100,h200],workload.rate:[1]}]
    zipped keys need the same number of values; device has 2, workload.rate has 1
    run sweep.zip=[{device:[h100,h200]}] sweep.axes={device:[l40s]}
    device is swept twice, by sweep.zip[0] and by sweep.axes
    run sweep.points=none.csv
    none.csv: no such file of points
    run sweep.points=other.csv
    other.csv:1: unknown option 'a'; known:
    run sweep.seeds=0
    sweep.seeds=0: give a number of seeds (5 means 0 to 4), or a list of different seeds >= 0
    run sweep.seeds=3 workload.seed=1
    workload.seed=1: workload.seed is swept
    run sweep.seeds=3 sweep.shard=4/3
    sweep.shard=4/3: it must be a part and how many parts, from 1/4 to 4/4 for four
    run sweep.seeds=3 sweep.width=0
    sweep.width=0: it must be at least 1
    run -m device=h100,h200 sweep.shard=1/2,3/2
    sweep.shard=3/2: it must be a part and how many parts
    run -m device=h100,h200 hydra/sweeper=basic sweep.dry_run=1,0
    sweep.dry_run cannot be swept
    run sweep.resume=none
    none: no such directory
    run sweep.resume=folder
    folder: not a sweep
    run -m device=h100,h200 objective.maximize=foo
    objective.maximize: there is no column 'foo'; known: acceptance_length, accepted_tokens, backlog_growth_per_s, busy_fraction
    run -m device=h100,h200 objective.subject_to=[gpus]
    objective.subject_to: cannot read 'gpus'
    run -m device=h100,h200 out=good.csv
    out=good.csv: this is a file; give a directory
    show-point
    say which point of which sweep: simjax show-point DIR NUMBER
    show-point folder
    say which point of which sweep
    show-point none 3
    none: no such directory
    show-point folder 3
    folder: not a sweep
    show-point folder three
    point=three: it must be an integer
    show-point folder 3 4
    '4' is not an option of simjax show-point
    """
)

FRONTS = cases(
    """
    pareto
    no sweep given: simjax pareto DIR
    pareto none
    none: no such directory
    pareto good.csv
    good.csv: a file; give the directory of a sweep
    pareto folder
    folder: not a sweep: it has neither sweep.json nor results.csv
    pareto begun
    begun: no point of this sweep is done yet; resume it with sweep.resume=begun
    pareto swept folder
    'folder' is not an option of simjax pareto
    pareto swept objective.maximise=[goodput_per_gpu]
    unknown option 'objective.maximise'; did you mean maximize
    pareto swept objective.maximize=[goodput]
    objective.maximize: there is no column 'goodput'; did you mean goodput_per_gpu?
    pareto swept objective.minimize=[itl_p99_s]
    'itl_p99_s'; sweeps do not keep the log of steps that ITL percentiles need; tpot_p99_s does without
    pareto swept objective.minimize=[device]
    objective: column 'device' does not hold numbers (it holds 'h100')
    pareto swept objective.maximize=[] objective.minimize=[]
    nothing to optimise: objective.maximize and objective.minimize are both empty
    pareto swept objective.maximize=ttft_p99_s
    objective: 'ttft_p99_s' is to be maximised and minimised
    pareto swept objective.subject_to=[ttft_p99_s]
    objective.subject_to: cannot read 'ttft_p99_s'; a constraint looks like column<=value
    pareto swept objective.subject_to=ttft_p99_s<=500ms
    'ttft_p99_s<=500ms': '500ms' is not a finite number in the column's unit
    pareto swept objective.subject_to=ttft_p99<=0.5
    objective.subject_to: there is no column 'ttft_p99'; did you mean ttft_p99_s
    pareto swept objective=fast
    objective=fast: a group of options; set its keys one by one
    """
)

OUTPUT = cases(
    """
    run out=good.csv
    out=good.csv: this is a file; give a directory
    run out=good.csv/x
    out=good.csv/x: cannot make this directory: Not a directory
    run out=
    out= is empty; give a directory
    trace describe good.csv out=good.csv
    out=good.csv: this is a file; give a directory
    pareto swept out=good.csv
    out=good.csv: this is a file; give a directory
    pareto swept out=
    out= is empty; give a directory
    profile fit folder out=good.csv/p.yaml
    out=good.csv: this is a file; give a directory
    """
)

ALL = OPTIONS + RANGES + CLUSTERS + READING + SWEEPS + FRONTS + OUTPUT
