"""Figure 7: KV memory and prefix hits of one A6000 over six pulses (experiments/validation/figure7.py), the pulses as they were sent.

Both are at the clock offset that is best for each.
"""

from __future__ import annotations

from figure7 import errors, read_log, read_peer, simulated
from table import Compared


def rows() -> list[Compared]:
    """Hits and blocks at the end, and the errors over the samples of the log."""
    log, peer, ours = read_log(), read_peer(), simulated(sent=True)
    off = [errors(log, curves, curves.offset_s(log)) for curves in (peer, ours)]
    hit = (
        100.0 * float(log.hit[-1] / log.queried[-1]),
        float(peer.hit_percent[-1]),
        100.0 * float(ours.admitted[2][-1] / ours.admitted[1][-1]),
    )
    blocks = float(log.blocks[-1]), float(peer.blocks[-1]), float(ours.blocks[-1])
    return [
        Compared("7", "prompt tokens found in the prefix cache, %", *hit, digits=2),
        Compared("7", "KV blocks at the end", *blocks, digits=0),
        *(
            Compared("7", name, None, off[0][name], off[1][name], is_error=True, digits=2)
            for name in ("hit rate, MAE, points", "KV, WAPE, %")
        ),
    ]
