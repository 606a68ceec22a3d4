"""genai-perf's `profile_export.json`, which Perf Analyzer writes: experiments with their requests, stamps in nanoseconds.

genai-perf counts tokens with a tokenizer after the run and does not write the counts. They are taken from the `usage` of an answer's last
event or from token ids where these are there; else each event with a text counts as one token, and the mean length of the prompts, which
genai-perf's summary beside the file holds, is shared out by their characters.
Source: https://github.com/triton-inference-server/perf_analyzer (genai_perf/profile_data_parser).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Recorded, TraceFormat
from simjax.workload.formats.results.values import beside, counts, look_up, numbers, one_object
from simjax.workload.formats.tables.json_text import json_value

_TEXT = ("choices", "text_output", "generated_text")


def read_genai_perf(path: Path) -> Recorded:
    """The requests of an export.

    Raises:
        SimjaxError: the file cannot be read or holds no requests, or nothing tells the lengths of prompts.
    """
    experiments = one_object(path).get("experiments")
    requests = [x for e in experiments or [] for x in (look_up(e, "requests") or [])] if isinstance(experiments, list) else []
    if not requests or not all(isinstance(x, dict) for x in requests):
        raise SimjaxError(f"{path}: experiments holds no requests")
    where = str(path)
    sent_ns = [x.get("timestamp") for x in requests]
    numbers(sent_ns, "timestamp", where)
    first_ns = min((stamp for stamp in sent_ns if stamp is not None), default=0)
    answers = [_answer(x, f"{path}: request {at + 1}") for at, x in enumerate(requests)]
    since = lambda stamp, x: None if stamp is None or x.get("timestamp") is None else (stamp - x["timestamp"]) / 1e9
    prompts, notes = _prompt_tokens(path, requests, answers)
    if any(count is None and n for (_, n, count, _) in answers):
        notes.append("answers without a usage: each event with a text counts as one token")
    models = (look_up(_payload(x), "model") for x in requests)
    return Recorded(
        arrival_s=np.array([np.nan if stamp is None else (stamp - first_ns) / 1e9 for stamp in sent_ns]),
        prompt_tokens=counts(prompts, "prompt_tokens", where),
        output_tokens=counts([n if count is None else count for (_, n, count, _) in answers], "completion_tokens", where),
        ttft_s=numbers([since(s[0] if s else None, x) for x, (s, *_) in zip(requests, answers, strict=True)], "response_timestamps", where),
        e2e_s=numbers([since(s[-1] if s else None, x) for x, (s, *_) in zip(requests, answers, strict=True)], "response_timestamps", where),
        failed=np.array([not stamps for stamps, *_ in answers]),
        lines=np.arange(1, len(requests) + 1),
        notes=tuple(notes),
        model=next((str(name) for name in models if name), None),
    )


def _answer(request: dict[str, Any], where: str) -> tuple[list[Any], int, Any, Any]:
    """Stamps of the events with a text, their number, and the tokens of answer and prompt where they are recorded."""
    stamps, outputs = request.get("response_timestamps"), request.get("response_outputs")
    if not isinstance(stamps, list) or (isinstance(outputs, list) and len(outputs) != len(stamps)):
        raise SimjaxError(f"{where}: response_timestamps is not a list with a stamp for each of response_outputs")
    numbers(stamps, "response_timestamps", where)
    kept, completion, prompt, ids = [], None, None, 0
    for stamp, output in zip(stamps, outputs if isinstance(outputs, list) else [None] * len(stamps), strict=True):
        texts, usage, some = _event(output)
        if usage is not None:
            completion, prompt = usage.get("completion_tokens", completion), usage.get("prompt_tokens", prompt)
        ids += some
        if texts:
            kept.append(stamp)
    return kept, len(kept), ids or completion, prompt


def _event(output: Any) -> tuple[bool, dict[str, Any] | None, int]:
    """Whether an event brought a text, the usage that it states, and the number of token ids in it."""
    if not isinstance(output, dict):
        return True, None, 0
    if (ids := output.get("output_ids")) is not None:
        return True, None, len(ids) if isinstance(ids, list) else 1
    if "text_output" in output:
        return bool(output["text_output"]), None, 0
    usage, texts = None, False
    for part in str(output.get("response") or "").split("\n\n"):
        text = part.strip().removeprefix("data:").strip()
        if not text or text == "[DONE]" or text.startswith((":", "event:", "id:", "retry:")):
            continue
        try:
            document = json_value(text)
        except ValueError:
            texts = True  # the second half of an event that came in two
            continue
        usage = look_up(document, "usage") or usage
        texts = texts or _has_text(document)
    return texts, usage if isinstance(usage, dict) else None, 0


def _has_text(document: Any) -> bool:
    choice = look_up(document, "choices")
    if isinstance(choice, list):
        first = choice[0] if choice else None
        return bool(look_up(first, "text", "delta.content", "delta.reasoning_content", "message.content"))
    return any(look_up(document, name) for name in _TEXT)


def _payload(request: dict[str, Any]) -> Any:
    text = look_up(request, "request_inputs.payload")
    try:
        return json_value(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _prompt_tokens(
    path: Path, requests: list[dict[str, Any]], answers: list[tuple[list[Any], int, Any, Any]]
) -> tuple[list[Any], list[str]]:
    """Tokens of the prompts, and a line about how they were found."""
    ids = [look_up(x, "request_inputs.input_ids") for x in requests]
    told = [len(own) if isinstance(own, list) else prompt for own, (*_, prompt) in zip(ids, answers, strict=True)]
    if all(count is not None or not stamps for count, (stamps, *_) in zip(told, answers, strict=True)):
        return told, []
    name = path.name.removesuffix(".gz").removesuffix(".json") + "_genai_perf.json"
    mean = look_up(beside(path, name), "input_sequence_length.avg")
    characters = [_characters(x) for x in requests]
    if not isinstance(mean, int | float) or not mean > 0 or not any(characters):
        raise SimjaxError(
            f"{path}: the lengths of prompts are not recorded; put genai-perf's summary {name} beside it (its mean length is shared out), "
            "or let the server state them (--extra-inputs stream_options:'{\"include_usage\":true}')"
        )
    total = sum(characters)
    shared = [max(1, round(mean * len(requests) * n / total)) for n in characters]
    return shared, [f"lengths of prompts are not recorded: the mean of {name}, {mean:g} tokens, is shared out by their characters"]


def _characters(request: dict[str, Any]) -> int:
    """Characters of a prompt."""
    payload = _payload(request)
    messages, prompt = look_up(payload, "messages"), look_up(payload, "prompt", "text_input", "inputs")
    if isinstance(messages, list):
        return sum(len(str(look_up(message, "content") or "")) for message in messages)
    if prompt is None:
        prompt = look_up(request, "request_inputs.text_input")
    return sum(map(len, map(str, prompt))) if isinstance(prompt, list) else len(str(prompt or ""))


GENAI_PERF = TraceFormat(
    name="genai_perf",
    title="genai-perf export, profile_export.json (ns)",
    container="json",
    arrival="experiments",
    prompt="experiments",
    output="experiments",
    stamps_per_second=1e9,
    also=("service_kind",),
    reader=read_genai_perf,
)
