"""Vidur traces (MIT): `arrived_at` in seconds; the processed data sets have no arrivals and give lengths only.

Source: https://github.com/microsoft/vidur (data/processed_traces).
"""

from simjax.workload.formats.base import TraceFormat

VIDUR = TraceFormat(
    name="vidur",
    title="Vidur trace, with or without arrived_at (s)",
    container="csv",
    arrival="arrived_at",
    prompt="num_prefill_tokens",
    output="num_decode_tokens",
    arrival_optional=True,
)
