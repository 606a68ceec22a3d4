"""BurstGPT (CC BY 4.0): arrivals in whole seconds, hence ties; failures are rows without a response (0 tokens),
most of them without a prompt.

BurstGPT_3 inserts `Session ID` and `Elapsed time` after the stamp and writes stamps as `19440110.0`.
Source: https://github.com/HPMLL/BurstGPT (KDD 2025).
"""

from simjax.workload.formats.base import TraceFormat

BURSTGPT = TraceFormat(
    name="burstgpt",
    title="BurstGPT 1, 2 or 3 (s)",
    container="csv",
    arrival="Timestamp",
    prompt="Request tokens",
    output="Response tokens",
    failed_column="Response tokens",
    failed=lambda tokens: tokens in ("0", "0.0", 0),
)
