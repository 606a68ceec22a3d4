"""The plain table for your own traces: CSV or Parquet with `arrival_s`, `prompt_tokens`, `output_tokens`; other columns are ignored.

`requests.csv` of a simulation has these columns too, so a run can be replayed. Optional columns tell what requests share and which of them
wait:

- `prefix_key`: prompts of equal key share their first `prefix_tokens` tokens (of two numbers the smaller; default the whole prompt).
- `session`: a request is sent `delay_s` (default 0) after the row before it of the same session finished; only the first one's `arrival_s`
  counts. Unless the file has `prefix_key`, a session is taken for a conversation that goes on: a prompt starts with the prompt and the
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
    prefix_key="prefix_key",
    prefix_tokens="prefix_tokens",
    session="session",
    delay="delay_s",
)
