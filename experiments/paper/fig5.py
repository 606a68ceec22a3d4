"""Figure 5: generation throughput a second of three deployments.

`A6000, prefill and decode` is experiments/validation/figure5.py. The other two are one instance with a prefix cache: the A6000 with the
step times that were best there, four H100 (Llama-3.1-70B) with the shipped profile. Nothing is fitted to the three runs. What is recorded
of these two servers does not name `max_num_seqs`, so it is vLLM's default for the device.
"""

from __future__ import annotations

import figure5
from a6000 import ARTIFACT, replayed
from figure5 import BEST, TRACE, Measured, Simulated
from table import Compared

from simjax.engine.host.result import Result

MAX_NUM_SEQS = {"A6000": 256, "H100": 1024}
GIVEN = {
    "end": -1.9,
    "wape": 3.24,
}  # of LLMServingSim, as published; its output is not in the artifact's files


def apart() -> list[Compared]:
    """Prefill and decode on one A6000 each: the end of the run, and the summed absolute errors of its seconds over all tokens."""
    return compared("5a, A6000, prefill and decode", Measured.read(), figure5.simulated(BEST).result, figure5.DECODE, GIVEN)


def a6000() -> list[Compared]:
    """One A6000: the same."""
    return compared("5b, A6000, one instance", *one_instance("A6000", figure5.simulated(BEST)))


def h100() -> list[Compared]:
    """Four H100: the same."""
    return compared("5c, 4 x H100, one instance", *one_instance("H100", None))


def one_instance(device: str, host: Simulated | None) -> tuple[Measured, Result, int]:
    """The measured curve of one instance, its simulation and its number; `host`: the run whose host time it takes, with its tables."""
    folder = ARTIFACT / "figure_5" / device
    server = [f"cluster.file={folder / 'SD+PC_config.json'}", f"scheduler.max_num_seqs={MAX_NUM_SEQS[device]}"]
    measured = Measured.read(folder / "SD+PC_throughput.tsv")
    if host is None:
        return measured, replayed(server, TRACE), 0
    with figure5.step_times(BEST) as options:
        return measured, replayed([*server, *options, f"profile.step_s={host.host_s}"], TRACE), 0


def compared(name: str, measured: Measured, result: Result, instance: int, given: dict[str, float] | None = None) -> list[Compared]:
    """Two rows of a run."""
    curve = figure5.tokens_per_second(result, len(measured.tokens) - 1, instance=instance)
    end_s, given = measured.makespan_s, given or {}
    theirs_s = end_s * (1.0 + given["end"] / 100.0) if given else None
    return [
        Compared(name, "end of the last request, s", end_s, theirs_s, figure5.makespan_s(result)),
        Compared(name, "throughput, WAPE of a second, %", None, given.get("wape"), figure5.wape(curve, measured.tokens), is_error=True),
    ]
