"""vLLM's own scheduler with OffloadingConnector in virtual time.

    VENV/bin/python tiers_drive.py < scenarios.jsonl > results.jsonl

As `drive.py`, which see. The connector is vLLM's on both sides, with its manager and its policy of eviction; only the copies are a fake:
each direction is one stream, and a copy takes what the scenario says. A core that has only copies to wait for goes on when one ends, where
vLLM's sleeps a millisecond between looks. A scenario has in addition
    tier: num_chunks, blocks_per_chunk, prompt_only, store_threshold, policy, load_s and store_s: [first, each block] seconds of a copy,
        load_after_step: whether loads wait for the step beside which they begin, as they do in 0.33
and a result `tier`: [chunks evicted, offers without room], and of each request `loaded`: tokens of its first load.
"""

from __future__ import annotations

import copy
from typing import Any

from drive import Batch, Engine, config_of, main
from vllm.config import KVTransferConfig, VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.worker import OffloadingConnectorWorker
from vllm.v1.kv_offload.base import TransferResult
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager
from vllm.v1.outputs import KVConnectorOutput

PARALLEL_WORKERS = 1


def with_connector(base: VllmConfig, scenario: dict) -> VllmConfig:
    config, tier = config_of(base, scenario), scenario["tier"]
    extra = {"cpu_bytes_to_use": 1 << 30, "blocks_per_chunk": tier["blocks_per_chunk"], "offload_prompt_only": tier["prompt_only"]}
    config = copy.copy(config)
    config.kv_transfer_config = KVTransferConfig(kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config=extra)
    return config


class InOrder(dict):
    """A set that is read in the order in which it was filled: vLLM's order of requests that end together is that of hashes of texts."""

    def add(self, key: str) -> None:
        self[key] = None


class Copies:
    """Copies between device and tier, a stream for each direction."""

    def __init__(self, tier: dict):
        self.seconds = {"store": tier["store_s"], "load": tier["load_s"]}
        self.after_step = tier["load_after_step"]
        self.free_s = {"store": 0.0, "load": 0.0}
        self.now = self.device_s = 0.0
        self.under_way: dict[str, list[tuple[int, float]]] = {"store": [], "load": []}

    def _submit(self, way: str, job: int, blocks: int, start_s: float) -> bool:
        first, each = self.seconds[way]
        self.free_s[way] = max(self.free_s[way], start_s) + first + each * blocks
        self.under_way[way].append((job, self.free_s[way]))
        return True

    def submit_store(self, job: int, source: Any, target: Any) -> bool:
        return self._submit("store", job, len(source.block_ids), max(self.now, self.device_s))

    def submit_load(self, job: int, source: Any, target: Any, expedited: bool = False) -> bool:
        assert not expedited
        return self._submit("load", job, len(target.block_ids), max(self.now, self.device_s) if self.after_step else self.now)

    def wait(self, jobs: set[int]) -> None:
        self.now = max([self.now, *(end_s for way in self.under_way.values() for job, end_s in way if job in jobs)])

    def get_finished(self) -> list[TransferResult]:
        ended = []
        for way in self.under_way.values():
            while way and way[0][1] <= self.now:
                ended.append(TransferResult(job_id=way.pop(0)[0], success=True))
        return ended

    def ends_s(self) -> list[float]:
        return [end_s for way in self.under_way.values() for _, end_s in way]


class OffloadingEngine(Engine):
    """The core's loop with a connector."""

    config_of = staticmethod(with_connector)

    def __init__(self, base: VllmConfig, scenario: dict, keep_steps: bool):
        super().__init__(base, scenario, keep_steps)
        tier, connector = scenario["tier"], self.scheduler.connector
        self.own = connector.connector_scheduler
        policy = {"cache_policy": tier["policy"], "store_threshold": tier["store_threshold"]}
        self.manager = self.own.manager = CPUOffloadingManager(tier["num_chunks"], **policy)
        self.evicted = self.failed = 0
        self.prepare, self.manager.prepare_store = self.manager.prepare_store, self._prepare_store
        self.loaded: dict[str, int] = {}
        self.after_alloc, connector.update_state_after_alloc = connector.update_state_after_alloc, self._after_alloc
        self.worker = OffloadingConnectorWorker(
            _spec_of(connector, self.scheduler), self.scheduler.vllm_config, self.scheduler.kv_cache_config
        )
        self.copies = self.worker.worker = Copies(tier)
        self.schedule, self.scheduler.schedule = self.scheduler.schedule, self._schedule
        self.update, self.scheduler.update_from_output = self.scheduler.update_from_output, self._update
        self.polled: dict[int, KVConnectorOutput] = {}

    def run(self) -> dict:
        result = super().run()
        for name, row in zip(self.rows, result["requests"], strict=True):
            row["loaded"] = self.loaded.get(name, 0)
        return result | {"tier": [self.evicted, self.failed]}

    def _prepare_store(self, keys: Any, context: Any) -> Any:
        made = self.prepare(keys, context)
        self.failed += made is None
        self.evicted += 0 if made is None else len(made.evicted_keys)
        return made

    def _after_alloc(self, request: Any, blocks: Any, tokens: int) -> None:
        if tokens and request.request_id not in self.cached:
            self.loaded.setdefault(request.request_id, tokens)
        self.after_alloc(request, blocks, tokens)

    def _schedule(self) -> Any:
        """The scheduler's pass, and what the worker does before the forward."""
        if not isinstance(self.scheduler.finished_req_ids, InOrder):
            self.scheduler.finished_req_ids = InOrder.fromkeys(self.scheduler.finished_req_ids)
        output = self.schedule()
        self.copies.now, self.copies.device_s = max(self.copies.now, self.clock), self.stage_free_s[0]  # the worker may still wait
        self.worker.handle_preemptions(output.kv_connector_metadata)
        self.clock = self.copies.now
        return output

    def _dispatch(self) -> Batch:
        now = self.clock
        batch = super()._dispatch()
        self.copies.now, self.copies.device_s, self.clock = self.clock, self.stage_free_s[0], now
        self.worker.start_kv_transfers(batch.output.kv_connector_metadata)
        self.worker.prepare_store_kv(batch.output.kv_connector_metadata)
        sent, received = self.worker.get_finished(set())
        meta = self.worker.build_connector_worker_meta()
        self.polled[id(batch.output)] = KVConnectorOutput(finished_sending=sent, finished_recving=received, kv_connector_worker_meta=meta)
        return batch

    def _update(self, output: Any, made: Any) -> Any:
        made.kv_connector_output = self.polled.pop(id(output))
        self.scheduler.finished_req_ids = InOrder.fromkeys(self.scheduler.finished_req_ids)
        return self.update(output, made)

    def _after_empty_pass_s(self) -> float:
        """A core that has only copies to wait for does not sleep."""
        if self.scheduler.has_unfinished_requests():
            return super()._after_empty_pass_s()
        ends_s = self.copies.ends_s()
        if self.worker._unsubmitted_store_jobs or not ends_s or any(batch.output.num_scheduled_tokens for batch in self.queue):
            return self.clock
        return max(self.clock, min([*ends_s, *(time for time, _ in self.arrivals[:1])]))


def _spec_of(connector: Any, scheduler: Any) -> Any:
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import build_offloading_config
    from vllm.v1.kv_offload.factory import OffloadingSpecFactory

    return OffloadingSpecFactory.create_spec(build_offloading_config(scheduler.vllm_config, scheduler.kv_cache_config))


if __name__ == "__main__":
    main(OffloadingEngine)
