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
    unknown option 'foo'; known: cluster, device, model,
    run ++workload.foo.bar=1
    unknown option 'workload.foo'; known: concurrency, cv,
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
    device=h100,h200: several values are a sweep, which does not exist yet
    run hydra.run.dir=x
    out=DIR says where results go
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
    scheduler.kv_cache_dtype: unknown dtype 'fp3'; did you mean fp32 or fp8
    run cluster.instances=0
    cluster.instances=0: it must be at least 1
    run cluster.tensor_parallel_size=0
    cluster.tensor_parallel_size=0: it must be at least 1
    run cluster.tensor_parallel_size=3
    num_attention_heads=32 cannot be divided by tensor_parallel_size=3
    run cluster.router=fastest
    cluster.router=fastest: there is no such router; known: least_kv, least_loaded, random, round_robin
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
    device file field.yaml: field 'aliases' is missing
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
    cluster.instances=3 has no effect beside cluster.groups
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
    device=h200 has no effect beside cluster.file
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
    other.csv: cannot tell the format from its columns (a, b, c); known formats: llmservingsim
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
    good.csv: a file; a measured run is a folder
    validate measured=folder
    folder: not a measured run; it has none of vllm/requests.jsonl, trace.csv.gz, trace.csv, exp-config.yaml
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
    profile fit folder out=good.csv/p.yaml
    out=good.csv: this is a file; give a directory
    """
)

ALL = OPTIONS + RANGES + CLUSTERS + READING + OUTPUT
