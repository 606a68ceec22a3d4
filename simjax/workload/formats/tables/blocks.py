"""The number of tokens that an id of a prompt's blocks stands for: stated, that of the format, or what the rows prove."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import TraceFormat

_POWERS = [2**power for power in range(14)]


def tokens_per_id(
    fmt: TraceFormat, ids: Sequence[np.ndarray | None], prompt_tokens: np.ndarray, lines: np.ndarray, stated: int | None
) -> tuple[int, str | None]:
    """The number of tokens that an id stands for, and a line about it where it is not that of the format.

    A prompt of t tokens has ceil(t / b) ids of blocks of b tokens (floor in files that leave the last, partial block out). The number of
    the format is kept where all rows have as many; otherwise it is the power of two that fits all rows.

    Args:
        fmt: format whose ids stand for blocks.
        ids: ids of each prompt, None where a row has none.
        prompt_tokens: int[R], tokens of each prompt.
        lines: int[R], line of each row.
        stated: number that the user gives, which is believed.

    Raises:
        SimjaxError: the rows fit neither.
    """
    count = np.array([0 if row is None else len(row) for row in ids])
    some = count > 0
    count, tokens, lines = count[some], np.asarray(prompt_tokens, np.int64)[some], np.asarray(lines)[some]
    own = fmt.tokens_per_id if stated is None else stated
    if stated is not None:
        wrong = int(np.count_nonzero(~_fits(own, count, tokens)))
        return own, f"{wrong} of {len(count)} rows have not one id in {fmt.prompt_ids} for {own} tokens" if wrong else None
    if _fits_all(own, count, tokens):
        return own, None
    fitting = [size for size in _POWERS if _fits_all(size, count, tokens)]
    if not fitting:
        r = int(np.argmin(_fits(own, count, tokens)))
        raise SimjaxError(
            f"line {lines[r]} has {count[r]} ids in {fmt.prompt_ids} for {tokens[r]} prompt tokens; that is not one for {own} tokens "
            f"(format={fmt.name}), and no block size fits all rows; workload.block_tokens=N states how many tokens an id stands for"
        )
    size = 16 if 16 in fitting else fitting[-1]
    others = "" if len(fitting) == 1 else f" (as would {' and '.join(str(other) for other in fitting if other != size)})"
    return size, f"an id in {fmt.prompt_ids} stands for {size} tokens: that fits all {len(count)} rows{others}, {own} does not"


def _fits(size: int, count: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return (count == -(-tokens // size)) | (count == tokens // size)


def _fits_all(size: int, count: np.ndarray, tokens: np.ndarray) -> bool:
    """Whether all rows count the last, partial block, or none does."""
    return bool(np.all(count == -(-tokens // size)) or np.all(count == tokens // size))
