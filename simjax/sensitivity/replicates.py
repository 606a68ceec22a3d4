"""The workloads of a run with several seeds, in every setting that changes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.engine.host.lowering.requests import request_params
from simjax.engine.params import RequestParams
from simjax.engine.shape import requests_bucket
from simjax.sensitivity.parameters import Setting
from simjax.workload import build_workload
from simjax.workload.config import WorkloadConfig
from simjax.workload.transform import scale_rate
from simjax.workload.workload import Workload

_ARRAYS = ("arrival_s", "prompt_tokens", "output_tokens")


class SeededWorkloads:
    """Workloads by seed and setting; the arrays of equal ones are the same objects, which a batch holds once.

    Attributes:
        seeds: seeds of the workloads; only one where the others would give the same requests, as for a trace.
        first: the workload of the first seed.
    """

    def __init__(self, config: WorkloadConfig, seeds: int, random_router: bool) -> None:
        """Build the workloads of `seeds` consecutive seeds from that of the configuration on; errors are those of `build_workload`."""
        self._config = config
        self.first = build_workload(config)
        workloads = [self.first]
        for seed in range(config.seed + 1, config.seed + seeds):
            workload = build_workload(replace(config, seed=seed))
            if not random_router and all(np.array_equal(getattr(workload, name), getattr(self.first, name)) for name in _ARRAYS):
                break
            workloads.append(workload)
        self.seeds = tuple(range(config.seed, config.seed + len(workloads)))
        self._workloads = dict(zip(self.seeds, workloads, strict=True))
        self._known: dict[tuple[int, float, int], tuple[Workload, RequestParams]] = {}

    @property
    def all(self) -> list[Workload]:
        """The workloads of all seeds in the present setting."""
        return list(self._workloads.values())

    @property
    def longest_tokens(self) -> int:
        """Prompt and output tokens of the longest request."""
        return max(workload.longest_tokens for workload in self._workloads.values())

    def of(self, seed: int, setting: Setting) -> tuple[Workload, RequestParams]:
        """The requests of a seed in a setting, and their arrays."""
        key = (seed, setting.rate, setting.concurrency)
        if key not in self._known:
            workload = self._workloads[seed]
            if setting.concurrency != workload.concurrency:
                workload = build_workload(replace(self._config, seed=seed, concurrency=setting.concurrency))
            if setting.rate != 1.0:
                workload = scale_rate(workload, setting.rate)
            self._known[key] = workload, request_params([workload], requests_bucket(len(workload)), [seed])
        return self._known[key]
