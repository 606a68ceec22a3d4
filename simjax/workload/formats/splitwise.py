"""splitwise-sim traces: `arrival_timestamp` in seconds.

Source: https://github.com/Mutinifni/splitwise-sim (Splitwise, ISCA 2024).
"""

from simjax.workload.formats.base import TraceFormat

SPLITWISE = TraceFormat(
    name="splitwise",
    title="splitwise-sim trace with arrival_timestamp, prompt_size, token_size (s)",
    container="csv",
    arrival="arrival_timestamp",
    prompt="prompt_size",
    output="token_size",
)
