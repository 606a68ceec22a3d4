"""Requests on two instances: the log of a run as its prefill instances see it, and the wait on decode instances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.engine.host.result import RequestLog, Result


def first_legs(result: Result) -> RequestLog:
    """The log with the instance of each prompt: `instance` is the prefill instance of requests that are handed over."""
    log = result.handovers
    if log is None:
        return result.requests
    return replace(result.requests, instance=np.where(log.prefill_instance >= 0, log.prefill_instance, result.requests.instance))


def second_legs(result: Result) -> np.ndarray:
    """Which requests came to a decode instance after their prefill on another one: bool[R]."""
    if result.handovers is None:
        return np.zeros(len(result.requests.finished), bool)
    return (result.handovers.prefill_instance >= 0) & (result.requests.instance >= 0)


def kept_for_transfers(result: Result, instance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KV blocks that an instance keeps for transfers, which it does while it has no step, too.

    A prefill instance keeps those of a prompt from the end of its prefill, a decode instance reserves them from the start of the transfer;
    both until the transfer has ended (the instances learn of that a little later), or for good if it does not.

    Returns:
        (begin float64[K] in seconds, end float64[K], blocks int64[K]) of each request's.
    """
    log, pools, requests = result.handovers, result.pools, result.requests
    if log is None or pools is None:
        return np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
    blocks = -(-requests.prompt_tokens.astype(np.int64) // pools.block_size[instance])
    sent = (log.prefill_instance == instance) & np.isfinite(log.prefill_finish_s)
    received = (log.prefill_instance >= 0) & (requests.instance == instance) & np.isfinite(log.transfer_start_s)
    begin = np.concatenate([log.prefill_finish_s[sent], log.transfer_start_s[received]])
    return begin, np.concatenate([log.transfer_end_s[sent], log.transfer_end_s[received]]), np.concatenate([blocks[sent], blocks[received]])


def waits_for_decode(result: Result, instance: int) -> tuple[np.ndarray, np.ndarray]:
    """Times at which the prefill of the requests of a decode instance ended, and their first step on it began: float64[K] both."""
    log = result.handovers
    if log is None:
        return np.zeros(0), np.zeros(0)
    mine = second_legs(result) & (result.requests.instance == instance) & np.isfinite(log.prefill_finish_s)
    return log.prefill_finish_s[mine], log.decode_scheduled_s[mine]
