"""Figure 6: power of a server with one RTX A6000 that serves three bursts (experiments/validation/power_server.py).

Both simulators have the coefficients of the device and the server from these logs; decode steps are as long as in vLLM's log of the run.
"""

from __future__ import annotations

import numpy as np
from power_server import FIGURE, as_logged, bursts, server
from table import Compared, read_tsv

KILO = 1e-3


def rows() -> list[Compared]:
    """Energy of the run, and the mean absolute error of a second."""
    logged, shipped = server(as_logged()[0]), server(bursts())
    measured, theirs = (
        read_tsv(FIGURE / name)["power_w"].to_numpy(float) for name in ("reference/server_power_tp1.tsv", "peer_parsed/power_tp1.tsv")
    )
    off_pct = 100.0 * float(np.mean(np.abs(theirs / measured - 1.0)))
    energy = KILO * float(measured.sum()), KILO * float(theirs.sum())
    found = []
    for name, ours in (("6", logged), ("6, shipped step times", shipped)):
        found += [
            Compared(name, "energy of the server, kJ", *energy, KILO * float(ours.simulated_w.sum()), digits=2),
            Compared(name, "power of the server, MAPE of a second, %", None, off_pct, ours.mape_pct, is_error=True),
        ]
    return found
