"""The plain table for your own traces: CSV or Parquet with `arrival_s`, `prompt_tokens`, `output_tokens`; others are not used.

The `requests.csv` of a simulation has these columns too, so a run can be replayed. Optional columns describe shared prefixes and sessions:

- `prefix_key`: prompts with the same key share their first `prefix_tokens` tokens (of two numbers the smaller; default the whole prompt).
- `session`: a row continues the one before it of the same session (by `turn`, else by their arrivals). It is sent
  `delay_s` seconds after that one finished; without a delay at its `arrival_s`, or when that one has finished, if later; with neither at
  once. Unless the file has `prefix_key`, a session is assumed to be a continuing conversation: a prompt starts with the prompt and the
  output of the row before it, as far as its length allows.
"""

from simjax.workload.formats.base import TraceFormat

PLAIN = TraceFormat(
    name="plain",
    title="CSV or Parquet with arrival_s, prompt_tokens, output_tokens (s)",
    container="csv",
    arrival="arrival_s",
    prompt="prompt_tokens",
    output="output_tokens",
    arrival_optional=True,
    fallback=True,
    prefix_key="prefix_key",
    prefix_tokens="prefix_tokens",
    session="session",
    delay="delay_s",
    turn="turn",
    results=frozenset(("request_id", "instance", "cached_tokens", "scheduled_s", "first_token_s", "finish_s", "preemptions", "status")),
)
