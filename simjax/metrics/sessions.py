"""The sessions of a run: a row a session, and their part of the summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from simjax.engine.host.result import NEVER, RequestLog
from simjax.metrics.calls import Calls, makespans
from simjax.metrics.latency import Latencies, latencies, statistics
from simjax.workload.sessions import Sessions


def sessions_frame(requests: RequestLog, sessions: Sessions) -> pd.DataFrame:
    """The columns of `sessions.csv`, a row a session in the order of `Sessions.names`; unknown values are `pd.NA`.

    `start_s` and `end_s` are the first arrival and the last finish so far. Only a session whose calls have all finished has a
    `makespan_s`, which is `in_calls_s`, with at least one call under way, plus `waiting_s`, in which its user thinks or its tools work.
    Prompt and output tokens are counted over all its calls, cached ones over the calls that were scheduled. `instances` is the number of
    different instances that served it.
    """
    calls, lat = Calls.of(sessions), latencies(requests)
    done = calls.reduced(np.add, lat.finished.astype(np.int64))
    span = makespans(requests, calls)
    waited = calls.reduced(np.add, _idle(requests, sessions))
    ttft = np.where(lat.finished, lat.ttft_s, 0.0)
    last = calls.reduced(np.maximum, np.where(lat.finished, requests.finish_s, -NEVER))
    kind = pd.DataFrame({"session": sessions.session, "instance": requests.instance})[requests.instance >= 0]
    served = kind.groupby("session")["instance"].nunique().reindex(calls.session, fill_value=0)
    whole = span != NEVER
    return pd.DataFrame(
        {
            "session": [sessions.names[i] for i in calls.session],
            "calls": np.diff(np.append(calls.starts, len(sessions))),
            "finished_calls": done,
            "start_s": _known(calls.reduced(np.minimum, requests.arrival_s)),
            "end_s": _known(last),
            "makespan_s": _known(span),
            "in_calls_s": _known(np.where(whole, span - waited, NEVER)),
            "waiting_s": _known(np.where(whole, waited, NEVER)),
            **{
                name: calls.reduced(np.add, getattr(requests, name).astype(np.int64))
                for name in ("prompt_tokens", "output_tokens", "cached_tokens")
            },
            "ttft_mean_s": _known(np.where(done > 0, calls.reduced(np.add, ttft) / np.maximum(done, 1), NEVER)),
            "ttft_max_s": _known(np.where(done > 0, calls.reduced(np.maximum, ttft), NEVER)),
            "instances": served.to_numpy(np.int64),
            "preemptions": calls.reduced(np.add, requests.preemptions.astype(np.int64)),
        }
    )


def session_summary(requests: RequestLog, sessions: Sessions) -> dict[str, Any]:
    """The content of `sessions` in summary.json.

    Returns:
        `total`, `finished` and `unfinished` sessions; statistics of `makespan_s` and `in_calls_s` (see `sessions_frame`) over the finished
        ones. `first_turns` (the calls that come first in their session) and `later_turns` (all other calls) have `calls`, `finished`,
        statistics of `ttft_s` and `e2e_s` over the finished calls, and `cached_fraction`, cached over prompt tokens of the calls that were
        scheduled.
    """
    frame, lat = sessions_frame(requests, sessions), latencies(requests)
    spans = {name: frame[name].dropna().to_numpy(np.float64) for name in ("makespan_s", "in_calls_s")}
    finished = len(spans["makespan_s"])
    return {
        "total": len(frame),
        "finished": finished,
        "unfinished": len(frame) - finished,
        **{name: statistics(values) for name, values in spans.items()},
        "first_turns": _turns(requests, lat, sessions.turn == 0),
        "later_turns": _turns(requests, lat, sessions.turn > 0),
    }


def pauses(requests: RequestLog, sessions: Sessions) -> pd.arrays.FloatingArray:
    """Seconds between the answer that a call waited for last and the call, [R]; missing where it waits for none.

    Missing, too, for a call that could have been sent before, had its recorded arrival not been later.
    """
    ready_s = requests.finish_s[sessions.waited_for] + sessions.delay_s
    last = np.lexsort((ready_s, sessions.then))  # of the entries of one call the later ones overwrite the others
    delay_s = np.full(len(sessions), NEVER)
    on_time = requests.arrival_s[sessions.then] > ready_s + 1e-9
    delay_s[sessions.then[last]] = np.where(on_time, NEVER, sessions.delay_s)[last]
    return _known(delay_s)


def _turns(requests: RequestLog, lat: Latencies, which: np.ndarray) -> dict[str, object]:
    done = which & lat.finished
    return {
        "calls": int(which.sum()),
        "finished": int(done.sum()),
        "ttft_s": statistics(lat.ttft_s[done]),
        "e2e_s": statistics(lat.e2e_s[done]),
        "cached_fraction": _cached_fraction(requests, which),
    }


def _cached_fraction(requests: RequestLog, which: np.ndarray) -> float | None:
    """Cached over prompt tokens of the requests `which` (bool[R]) that were scheduled; None when there are none."""
    scheduled = (requests.scheduled_s != NEVER) & which
    prompt = int(requests.prompt_tokens[scheduled].sum())
    return int(requests.cached_tokens[scheduled].sum()) / prompt if prompt else None


def _idle(requests: RequestLog, sessions: Sessions) -> np.ndarray:
    """Seconds before each finished call in which no other call of its session was under way, float64[R]; 0 for the first call."""
    by_time = np.lexsort((requests.arrival_s, sessions.session))
    by_time = by_time[requests.finished[by_time]]
    table = pd.DataFrame({"session": sessions.session[by_time], "finish_s": requests.finish_s[by_time]})
    busy_until = table.groupby("session")["finish_s"].cummax().groupby(table["session"]).shift(1).to_numpy(np.float64)
    idle = np.zeros(len(sessions))
    idle[by_time] = np.where(np.isnan(busy_until), 0.0, np.maximum(requests.arrival_s[by_time] - busy_until, 0.0))
    return idle


def _known(values: np.ndarray) -> pd.arrays.FloatingArray:
    """Numbers, missing where they are infinite."""
    there = np.isfinite(values)
    return pd.arrays.FloatingArray(np.where(there, values, 0.0), ~there)
