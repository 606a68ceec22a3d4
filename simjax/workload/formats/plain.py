"""The plain table for your own traces: CSV or Parquet with `arrival_s`, `prompt_tokens`, `output_tokens`; other columns are ignored.

`requests.csv` of a simulation has these columns too, so a run can be replayed.
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
)
