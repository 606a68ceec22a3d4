"""kv-cache-tester agentic coding sessions (Apache-2.0): one JSON object, in its own file, per session.

A session's `requests` are its calls in the order in which they were sent, each waiting for the one before. `t` is the time in seconds from
the session's start, `api_time` the duration of the call, `think_time` the pause before it. `hash_ids` identify the whole blocks of the
prompt (`block_size` tokens each, so `in` rounded down) and are local to the file unless `hash_id_scope` is set otherwise. An entry of type
`subagent` holds calls of its own, whose `t` counts from its start: sub-agents start after the main call before them and run in parallel,
and the main line's next call waits for those that ended before it. A sub-agent without a `duration_ms` was launched to run on its own: no
call waits for it.

The files leave some things open, which are interpreted as follows (see `simjax.workload.formats.sessions.agents`):

- They have no common clock: every session starts at 0; `simjax.workload.transform.start_sessions` draws other starts.
- The pause before a call is its `think_time` if that is the pause after the previous call; where sub-agents ran in between, or the end of
  the previous call is not known, the pause is the difference of the recorded times.
- Streamed calls may lack `api_time`: they are assumed to have taken as long per output token as the file's other calls (median).
- The output of a call is assumed to be the continuation of the next prompt, up to its length, if that prompt holds all of the call's
  blocks; otherwise it is not shared.
- Calls with 0 output tokens were not answered, but their prompts were computed: they are replayed with 1 output token, as in all formats.

Source: https://github.com/callanjfox/kv-cache-tester.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.tables.rows import id_array, read_json_object

KVCACHE_TESTER = TraceFormat(
    name="kvcache_tester",
    title="kv-cache-tester session (s): a JSON file, or a directory of them",
    container="json",
    arrival="requests",
    prompt="requests",
    output="requests",
    also=("block_size",),
)

_MAX_TOKENS = 2**31 - 1
_READ = {"id", "block_size", "hash_id_scope", "requests", "type", "t", "in", "out", "api_time", "think_time", "hash_ids", "duration_ms"}


@dataclass(frozen=True)
class Call:
    """A recorded call.

    Attributes:
        number: position among the calls of the file, those of sub-agents included.
        start_s: seconds from the session's start.
        api_s: duration in seconds, None where that was not recorded.
        think_s: pause before the call in seconds, None where that was not recorded.
        prompt_tokens, output_tokens: numbers of tokens, >= 1.
        ids: int64[n], ids of the prompt's whole blocks.
        answered: whether it had an output.
    """

    number: int
    start_s: float
    api_s: float | None
    think_s: float | None
    prompt_tokens: int
    output_tokens: int
    ids: np.ndarray
    answered: bool = True


@dataclass(frozen=True)
class Agent:
    """A sub-agent.

    Attributes:
        calls: its calls, in order.
        after: number of main calls listed before it.
        start_s: seconds from the session's start.
        awaited: whether the main line waits for its end.
    """

    calls: list[Call]
    after: int
    start_s: float
    awaited: bool


@dataclass(frozen=True)
class Session:
    """The session in a file.

    Attributes:
        name: its id.
        block_size: tokens that a block id stands for.
        local: whether its block ids are not comparable with those of other files.
        main, agents: its calls, and its sub-agents with theirs.
        unused: keys of the file, and of its calls, that are not read.
        models: models that its calls name.
    """

    name: str
    block_size: int
    local: bool
    main: list[Call]
    agents: list[Agent]
    unused: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()

    @property
    def calls(self) -> list[Call]:
        """All calls in the file's order."""
        return sorted([*self.main, *(call for agent in self.agents for call in agent.calls)], key=lambda call: call.number)


def session_files(path: Path) -> list[Path]:
    """The file itself, or the JSON files of the directory, sorted by name.

    Raises:
        SimjaxError: a directory without JSON files.
    """
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.name.endswith((".json", ".json.gz")))
    if not files:
        raise SimjaxError(f"{path}: a directory, not a trace file, and it holds no session files (*.json)")
    return files


def read_session(path: Path) -> Session:
    """The session in a file.

    Raises:
        SimjaxError: the file cannot be read, or a value is missing or impossible; the message names the entry.
    """
    document = read_json_object(path)
    main: list[Call] = []
    agents: list[Agent] = []
    count = 0
    keys, models = set(document), set[str]()

    def call(entry: Any, place: str, start_s: float) -> Call:
        nonlocal count
        count += 1
        if isinstance(entry, dict):
            keys.update(entry)
            models.update({str(entry["model"])} if entry.get("model") else set())
        return _call(entry, f"{path}: {place}", count - 1, start_s)

    for i, entry in enumerate(_list(document, "requests", f"{path}: ")):
        place = f"requests[{i}]"
        if not isinstance(entry, dict) or entry.get("type") != "subagent":
            main.append(call(entry, place, 0.0))
            continue
        duration_ms = _number(entry, "duration_ms", f"{path}: {place}", optional=True)
        start_s = _number(entry, "t", f"{path}: {place}") - (duration_ms or 0.0) / 1e3
        inner = _list(entry, "requests", f"{path}: {place}.")
        calls = [call(inner_entry, f"{place}.requests[{k}]", start_s) for k, inner_entry in enumerate(inner)]
        agents.append(Agent(calls, len(main), start_s, awaited=duration_ms is not None))
    if not count:
        raise SimjaxError(f"{path}: the session has no calls")
    name = document.get("id") or path.name.split(".")[0]
    block_size = int(_number(document, "block_size", f"{path}", whole=True, least=1))
    local = document.get("hash_id_scope", "local") == "local"
    return Session(str(name), block_size, local, main, agents, frozenset(keys - _READ), frozenset(models))


def _call(entry: Any, place: str, number: int, start_s: float) -> Call:
    if not isinstance(entry, dict):
        raise SimjaxError(f"{place} is not an object")
    ids = id_array(entry.get("hash_ids") or [])
    if not isinstance(ids, np.ndarray):
        raise SimjaxError(f"{place}: hash_ids is not a list of whole numbers")
    return Call(
        number=number,
        start_s=start_s + _number(entry, "t", place),
        api_s=_number(entry, "api_time", place, optional=True),
        think_s=_number(entry, "think_time", place, optional=True),
        prompt_tokens=int(_number(entry, "in", place, whole=True, least=1)),
        output_tokens=max(out := int(_number(entry, "out", place, whole=True)), 1),
        ids=ids,
        answered=out > 0,
    )


def _list(entry: dict[str, Any], key: str, place: str) -> list[Any]:
    if not isinstance(entry.get(key), list):
        raise SimjaxError(f"{place}{key} is not a list")
    return entry[key]


def _number(entry: dict[str, Any], key: str, place: str, whole: bool = False, least: int = 0, optional: bool = False) -> Any:
    """A number >= `least`, or None where it is optional and missing."""
    value = entry.get(key)
    if value is None and optional:
        return None
    fault = None
    if value is None:
        fault = f"{key} is missing"
    elif isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < np.inf:
        fault = f"{key}={str(value)[:40]} is not a number"
    elif value < least:
        fault = f"{key}={value} must be at least {least}"
    elif whole and (value != int(value) or value > _MAX_TOKENS):
        fault = f"{key}={value} is not a whole number up to {_MAX_TOKENS}"
    if fault is not None:
        raise SimjaxError(f"{place}: {fault}")
    return value
