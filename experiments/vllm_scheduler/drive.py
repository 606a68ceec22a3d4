"""vLLM's own scheduler in virtual time, without a GPU or a model.

    VENV/bin/python drive.py < scenarios.jsonl > results.jsonl

Runs in an environment that has vllm and nothing of simjax; a CPU is enough. Scheduler, KV-cache manager, queues and requests are vLLM's.
The executor is a fake: its steps last what the scenario says, its drafts are accepted as the scenario says. The loop makes the calls of
`EngineCore.step` and, where scheduling is asynchronous or there are pp stages, those of `EngineCore.step_with_batch_queue`.

A scenario is a JSON object a line:
    limits: num_blocks (as requests can use them), block_size, max_num_seqs, max_num_batched_tokens, max_model_len,
        long_prefill_token_threshold, enable_chunked_prefill, reserve_full_isl, async_scheduling, enable_prefix_caching
    policy: "fcfs" or "priority"
    stages: step times, one for each pp stage: {tokens_s: [...], sequences_s: [...], decode_s: [floor, per sequence, per context token],
        mixed_s: [floor, per context token]}; the two lists are indexed by tokens and by sequences of a step
    send_s: [first, per token] seconds to the next stage; broadcast_s: from the last stage's sampling to the first stage's having the tokens
    empty_pass_s: sleep after a pass that ran nothing although requests are left (vLLM's is 0.001)
    drafts, lookahead: num_speculative_tokens and num_lookahead_tokens; 0 without speculative decoding
    reuse: "all" cached blocks by any drafter, or "last" or "next_token", the rules of releases for EAGLE and MTP
    requests: {arrival_s, prompt, output, priority, accepted: number of drafts that are right, by generated tokens}; prompt and output are
        lists of token ids, or numbers of tokens that no other request has; with `after`, [[request, seconds], ...], a request is sent so
        long after the ends of others instead of at its arrival_s
A result has `tokens_s`, `preemptions` and `cached_tokens` (found at the first admission) of each request, the blocks that lost their name
as `evictions`, vLLM's `lookups` (see LOOKUPS), and with --steps the `steps` (start, end, {request: tokens}); or an `error`.
"""

from __future__ import annotations

import copy
import heapq
import json
import os
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import vllm
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

LONGEST = 1 << 20
PASSED_ON = ("max_num_seqs", "max_num_batched_tokens", "long_prefill_token_threshold", "enable_chunked_prefill", "async_scheduling")
MOST_EMPTY = 10_000  # passes in a row that run nothing
LOOKUPS = ("requests", "queries", "hits", "preempted_requests", "preempted_queries", "preempted_hits")
"""Fields of vLLM's `PrefixCacheStats`."""
RELEASE = tuple(map(int, vllm.__version__.split(".")[:2]))


class Drafting:
    """What the scheduler asks of a speculative configuration.

    A drafter has a KV cache of its own (EAGLE, a draft model) or not (n-gram); `reuse` is "all" for a draft model.
    """

    num_speculative_tokens_per_batch_size = None
    disable_eagle_block_drop = False
    max_num_new_slots_for_drafting = 0
    draft_model_config = None
    method = "scripted"

    def __init__(self, drafts: int, lookahead: int, reuse: str):
        assert lookahead in (0, drafts)
        self.num_speculative_tokens, self._has_cache, self._eagle = drafts, lookahead > 0, reuse != "all"
        self.disable_lookahead_block_hashes = reuse != "next_token"

    def use_eagle(self) -> bool:
        return self._eagle

    def uses_draft_model(self) -> bool:
        return self._has_cache and not self._eagle

    def use_eagle_block_drop(self) -> bool:
        return self._eagle

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("use", "needs")):  # other methods of drafting: not this one
            return lambda *_: False
        raise AttributeError(name)


def base_config() -> VllmConfig:
    """A configuration of a tiny model, made once; what a scenario sets is replaced in copies of it."""
    shape = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "vocab_size": 1000}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": LONGEST}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(shape | {"torch_dtype": "bfloat16"}))
        model = ModelConfig(model=folder, tokenizer=folder, skip_tokenizer_init=True, max_model_len=LONGEST, dtype="bfloat16")
        scheduler = SchedulerConfig(max_model_len=LONGEST, is_encoder_decoder=False, async_scheduling=False)
        cache = CacheConfig(block_size=16)
        return VllmConfig(model_config=model, cache_config=cache, scheduler_config=scheduler, device_config=DeviceConfig("cpu"))


def config_of(base: VllmConfig, scenario: dict) -> VllmConfig:
    limits, config = scenario["limits"], copy.copy(base)
    config.model_config = copy.copy(base.model_config)
    config.model_config.max_model_len = limits["max_model_len"]
    config.cache_config = CacheConfig(block_size=limits["block_size"], enable_prefix_caching=limits["enable_prefix_caching"])
    config.cache_config.num_gpu_blocks = limits["num_blocks"] + 1  # one is the null block
    config.scheduler_config = SchedulerConfig(
        max_model_len=limits["max_model_len"],
        is_encoder_decoder=False,
        policy=scenario["policy"],
        scheduler_reserve_full_isl=limits["reserve_full_isl"],
        **{name: limits[name] for name in PASSED_ON},
    )
    config.parallel_config = copy.copy(base.parallel_config)
    config.parallel_config.pipeline_parallel_size = len(scenario["stages"])
    config.speculative_config = Drafting(scenario["drafts"], scenario["lookahead"], scenario["reuse"]) if scenario["drafts"] else None
    return config


@dataclass
class Batch:
    """A scheduled batch on its way through the stages."""

    output: SchedulerOutput
    end_s: float
    sampled: dict[str, list[int]]


class Engine:
    """The core's loop around a scheduler."""

    config_of = staticmethod(config_of)

    def __init__(self, base: VllmConfig, scenario: dict, keep_steps: bool):
        config, limits = self.config_of(base, scenario), scenario["limits"]
        block = FullAttentionSpec(block_size=limits["block_size"], num_kv_heads=1, head_size=64, dtype=config.model_config.dtype)
        self.scheduler = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(limits["num_blocks"] + 1, [], [KVCacheGroupSpec(["layer"], block)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=limits["block_size"],
            log_stats=True,
        )
        pool, self.evictions = self.scheduler.kv_cache_manager.block_pool, 0
        self.evict, pool._maybe_evict_cached_block = pool._maybe_evict_cached_block, self._evict
        self.lookups = dict.fromkeys(LOOKUPS, 0)
        self.scenario, self.keep_steps = scenario, keep_steps
        self.later, self.stages, self.drafts = limits["async_scheduling"], scenario["stages"], scenario["drafts"]
        self.most_batches = len(self.stages) + self.later
        self.rows = {str(index): row for index, row in enumerate(scenario["requests"])}
        self.requests = {}
        ahead = {"num_hash_lookahead_tokens": 1} if scenario["reuse"] == "next_token" else {}
        hasher = get_request_block_hasher(limits["block_size"], sha256, **ahead) if limits["enable_prefix_caching"] else None
        self.contents = {}
        for index, (name, row) in enumerate(self.rows.items()):
            prompt, output = token_ids(row["prompt"], 2 * index), token_ids(row["output"], 2 * index + 1)
            row |= {"prompt": len(prompt), "output": len(output)}
            sampling = SamplingParams(max_tokens=len(output), ignore_eos=True)
            own = {"arrival_time": row["arrival_s"] + 1e-9 * index, "priority": row["priority"]}  # no two stamps are the same
            self.requests[name], self.contents[name] = Request(name, prompt, sampling, None, block_hasher=hasher, **own), output
        self.arrivals = [(row["arrival_s"], int(name)) for name, row in self.rows.items() if not row.get("after")]
        heapq.heapify(self.arrivals)
        self.finish_s: dict[int, float] = {}
        self.cached: dict[str, int] = {}
        self.queue: deque[Batch] = deque()  # oldest first
        self.clock, self.empty = 0.0, 0
        self.stage_free_s = [0.0] * len(self.stages)
        self.token_at_first_s: dict[str, float] = {}  # of those with a token since their admission: when the first stage has the latest
        self.computed: dict[str, int] = {}  # tokens that the device really has
        self.generated = dict.fromkeys(self.rows, 0)  # tokens that it has sampled
        self.tokens_s: dict[str, list[float]] = {name: [] for name in self.rows}
        self.steps: list[tuple[float, float, dict[int, int]]] = []

    def run(self) -> dict:
        while self.empty < MOST_EMPTY:
            if not self.scheduler.has_requests() and not self.queue:
                if not self.arrivals:
                    break
                self.clock = max(self.clock, self.arrivals[0][0])
            while self.arrivals and self.arrivals[0][0] <= self.clock:
                _, index = heapq.heappop(self.arrivals)
                self.scheduler.add_request(self.requests[str(index)])
            ran = self._pass_with_queue() if self.most_batches > 1 else self._pass()
            self.empty = 0 if ran else self.empty + 1
            if not ran and self.scheduler.has_requests():
                self.clock = self._after_empty_pass_s()
        rows = [
            {"tokens_s": self.tokens_s[x], "preemptions": self.requests[x].num_preemptions, "cached_tokens": self.cached.get(x, 0)}
            for x in self.rows
        ]
        counts = {"evictions": self.evictions, "lookups": list(self.lookups.values())}
        return {"requests": rows, **counts, **({"steps": self.steps} if self.keep_steps else {})}

    def _after_empty_pass_s(self) -> float:
        """When the loop goes on after a pass that ran nothing."""
        return self.clock + self.scenario["empty_pass_s"]

    def _evict(self, block: Any) -> bool:
        lost = self.evict(block)
        self.evictions += lost
        return lost

    def _pass(self) -> bool:
        batch = self._dispatch()
        self._deliver(batch)
        return bool(batch.output.num_scheduled_tokens)

    def _pass_with_queue(self) -> bool:
        ran = False
        if self.scheduler.has_requests():
            batch = self._dispatch()
            ran = bool(batch.output.num_scheduled_tokens)
            self.queue.append(batch)
            if len(self.queue) < self.most_batches and self._goes_on_filling(ran):
                return ran  # filling the queue comes before reading results
        if self.queue:
            self._deliver(self.queue.popleft())
        return ran

    def _goes_on_filling(self, ran: bool) -> bool:
        if RELEASE < (0, 20):
            return ran and self.queue[0].end_s > self.clock
        return ran or self.scheduler.has_requests()

    def _dispatch(self) -> Batch:
        """Call the scheduler, and send its batch through the stages."""
        before = {request.request_id: request.num_preemptions for request in self.scheduler.running}
        output = self.scheduler.schedule()
        tokens = output.num_scheduled_tokens
        for name in before:
            request = self.requests[name]
            if request.num_preemptions > before[name]:
                for known in (self.computed, self.token_at_first_s):
                    known.pop(name, None)
        cached = output.scheduled_cached_reqs
        before_step = {x.req_id: x.num_computed_tokens for x in output.scheduled_new_reqs}
        before_step |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        padded = set(before_step) - set(self.computed)  # drafts of those admitted now are padding
        work, ready_s = [], self.clock
        for name, new in tokens.items():
            decoding = name in self.token_at_first_s
            self.cached.setdefault(name, before_step[name])
            work.append((new, self.computed.setdefault(name, before_step[name]), decoding))
            if self.later and decoding:
                ready_s = max(ready_s, self.token_at_first_s[name])
        start_s, end_s = self._through_stages(ready_s, work) if tokens else (self.clock, self.clock)
        sampled = {name: self._sampled(name, new, output, end_s, name not in padded) for name, new in tokens.items()}
        if tokens and self.keep_steps:
            self.steps.append((start_s, end_s, {int(name): new for name, new in tokens.items()}))
        return Batch(output, end_s, sampled)

    def _total(self, name: str) -> int:
        return self.rows[name]["prompt"] + self.generated[name]

    def _sampled(self, name: str, new: int, output: SchedulerOutput, end_s: float, drafted: bool) -> list[int]:
        """The tokens that a request gets; what the device has computed of it follows."""
        drafts = len(output.scheduled_spec_decode_tokens.get(name, ()))
        self.computed[name] += new - drafts
        if self.computed[name] < self._total(name) or self.generated[name] == self.rows[name]["output"]:
            return []
        right = min(drafts, self.rows[name]["accepted"][self.generated[name]]) if drafted and drafts else 0
        count = min(1 + right, self.rows[name]["output"] - self.generated[name])
        tokens = (self.contents[name] + [0] * right)[self.generated[name] : self.generated[name] + 1 + right]
        self.generated[name] += count
        self.computed[name] = self._total(name) - 1
        self.token_at_first_s[name] = end_s + self.scenario["broadcast_s"]
        return tokens  # the scheduler cuts what is more than the request wants

    def _through_stages(self, ready_s: float, work: list[tuple[int, int, bool]]) -> tuple[float, float]:
        first, each = self.scenario["send_s"]
        start_s = end_s = max(ready_s, self.stage_free_s[0])
        for stage, times in enumerate(self.stages):
            begin_s = start_s if stage == 0 else max(end_s + first + each * sum(new for new, _, _ in work), self.stage_free_s[stage])
            end_s = self.stage_free_s[stage] = begin_s + seconds(times, work)
        return start_s, end_s

    def _deliver(self, batch: Batch) -> None:
        """Wait for a batch, and give its tokens, and without asynchronous scheduling the next drafts, to the scheduler."""
        self.clock = max(self.clock, batch.end_s)
        names = list(batch.output.num_scheduled_tokens)
        places = {name: place for place, name in enumerate(names)}
        ids = [batch.sampled[name] for name in names]
        made = ModelRunnerOutput(req_ids=names, req_id_to_index=places, sampled_token_ids=ids)
        for outputs in self.scheduler.update_from_output(batch.output, made).values():
            for one in outputs.outputs:
                self.tokens_s[one.request_id] += [self.clock] * len(one.new_token_ids)
                if one.finish_reason is not None:
                    self._finished(int(one.request_id))
            if outputs.scheduler_stats is not None:
                for name in LOOKUPS:
                    self.lookups[name] += getattr(outputs.scheduler_stats.prefix_cache_stats, name)
        if self.drafts and not self.later and names:
            self.scheduler.update_draft_token_ids(DraftTokenIds(names, [[1] * self.drafts for _ in names]))

    def _finished(self, index: int) -> None:
        """Send the requests that wait for this one and for no other any more."""
        self.finish_s[index] = self.clock
        for follower, row in enumerate(self.rows.values()):
            after = row.get("after", [])
            if any(before == index for before, _ in after) and all(before in self.finish_s for before, _ in after):
                sent_s = max(self.finish_s[before] + delay_s for before, delay_s in after)
                heapq.heappush(self.arrivals, (sent_s, follower))


def token_ids(said: int | list[int], own: int) -> list[int]:
    """Ids as they are given, or so many that nobody else has."""
    return said if isinstance(said, list) else [(1 << 40) + own * (1 << 24) + place for place in range(said)]


def seconds(times: dict, work: list[tuple[int, int, bool]]) -> float:
    """Step time of requests with so many new and computed tokens; one that verifies drafts has the attention of a decode."""
    chunks = [1 if decoding else new for new, _, decoding in work]
    contexts = [computed for chunk, (_, computed, _) in zip(chunks, work, strict=True) if chunk == 1]
    total_s = times["tokens_s"][sum(chunks)] + times["sequences_s"][len(work)]
    if len(contexts) == len(work):
        floor, per_sequence, per_token = times["decode_s"]
        total_s = total_s + floor + per_sequence * len(work) + per_token * sum(contexts)
    else:
        total_s = total_s + times["mixed_s"][0] + times["mixed_s"][1] * sum(contexts)
    return total_s + times["tokens_s"][sum(new for new, _, _ in work)] - times["tokens_s"][sum(chunks)]


def main(kind: type[Engine] = Engine) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever vLLM prints
    base = base_config()
    init_none_hash(sha256)
    for line in sys.stdin:
        try:
            result = kind(base, json.loads(line), "--steps" in sys.argv).run()
        except Exception as error:  # what vLLM refuses or breaks on is a row with a reason
            result = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
