"""Azure LLM inference traces 2023 and 2024 (CC BY 4.0), and a CSV variant of the latter for replays.

2023 writes naive stamps with 7 fractional digits, CRLF line ends and no final newline; 2024 writes 6 digits and `+00:00`.
Source: https://github.com/Azure/AzurePublicDataset (Splitwise, ISCA 2024; DynamoLLM, HPCA 2025).
"""

from simjax.workload.formats.base import TraceFormat

AZURE = TraceFormat(
    name="azure",
    title="Azure LLM inference trace 2023 or 2024 (date-times)",
    container="csv",
    arrival="TIMESTAMP",
    prompt="ContextTokens",
    output="GeneratedTokens",
    stamps_per_second=None,
)

AZURE_REPLAY = TraceFormat(
    name="azure_replay",
    title="replay CSV with arrival_ms, prompt_tokens, output_tokens (ms)",
    container="csv",
    arrival="arrival_ms",
    prompt="prompt_tokens",
    output="output_tokens",
    stamps_per_second=1e3,
)
