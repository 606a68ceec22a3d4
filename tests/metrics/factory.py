"""Small results whose every number can be checked by hand."""

import dataclasses

import numpy as np

from simjax.deployment import Role
from simjax.engine.columns import completed
from simjax.engine.host.pools import Pools
from simjax.engine.host.result import NEVER, HandoverLog, InstanceLog, LeapLog, RequestLog, Result, Status
from simjax.engine.host.tiers import TierSizes
from simjax.workload.sessions import Sessions, from_waits

_FLOATS = {"tier_load_start_s", "tier_load_end_s"}
_FLOATS |= {
    "arrival_s",
    "scheduled_s",
    "first_token_s",
    "finish_s",
    "start_s",
    "first_step_s",
    "next_step_s",
    "slope_s",
    "resumed_gap_s",
}
_LEAP = dict(
    instance=0, start_s=0.0, first_step_s=1.0, next_step_s=0.0, slope_s=0.0, steps=1, prompt_tokens=0, first_outputs=0, decodes=0,
    outputs=0, resumed=0, resumed_gap_s=0.0, running=0, preempted=0, kv_blocks=0, kv_blocks_last=0, cached_blocks=0,
)  # fmt: skip
_REQUEST = dict(
    instance=0, prompt_tokens=1, output_tokens=1, cached_tokens=0, arrival_s=0.0, scheduled_s=NEVER, first_token_s=NEVER, finish_s=NEVER,
    preemptions=0, tier_hit_tokens=0, tier_load_start_s=NEVER, tier_load_end_s=NEVER,
)  # fmt: skip


def _columns(rows, defaults):
    for row in rows:
        assert set(row) <= set(defaults), set(row) - set(defaults)
    return {
        name: np.array([row.get(name, default) for row in rows], dtype=np.float64 if name in _FLOATS else np.int32)
        for name, default in defaults.items()
    }


def request_log(*rows) -> RequestLog:
    """One dict a request; a request with a `finish_s` is finished."""
    columns = _columns(rows, _REQUEST)
    return completed(RequestLog, len(rows), {**columns, "finished": columns["finish_s"] != NEVER})


def leap_log(*rows) -> LeapLog:
    """One dict a leap; `kv_blocks_last` defaults to `kv_blocks`."""
    return completed(LeapLog, len(rows), _columns([{"kv_blocks_last": row.get("kv_blocks", 0), **row} for row in rows], _LEAP))


def make_result(requests, leaps=None, num_blocks=(10,), status=Status.FINISHED) -> Result:
    steps = int(leaps.steps.sum()) if leaps is not None else 7
    peak = np.zeros(len(num_blocks), np.int32)
    if leaps is not None:
        np.maximum.at(peak, leaps.instance, np.maximum(leaps.kv_blocks, leaps.kv_blocks_last))
    instances = completed(InstanceLog, len(num_blocks), {"num_blocks": num_blocks, "peak_blocks": peak})
    return Result(status, requests, leaps, instances, 11, steps, compile_s=1.5, run_s=0.25)


def tiny() -> Result:
    """Three requests on one instance with 10 blocks of 4 tokens.

    A (8 prompt, 3 output) prefills for 1 s, decodes for 0.5 s, then decodes beside the prefill of B (4 prompt, 2 output) for 1 s and ends;
    B decodes for 0.5 s and ends at t=3. C (4 prompt, 1 output) comes to an idle engine at t=20 and takes 0.5 s.
    TTFT 1, 1, 0.5; E2E 2.5, 1.5, 0.5; TPOT 0.75, 0.5, none; inter-token gaps 0.5, 1, 0.5.
    """
    requests = request_log(
        dict(prompt_tokens=8, output_tokens=3, arrival_s=0.0, scheduled_s=0.0, first_token_s=1.0, finish_s=2.5),
        dict(prompt_tokens=4, output_tokens=2, arrival_s=1.5, scheduled_s=1.5, first_token_s=2.5, finish_s=3.0, cached_tokens=0),
        dict(prompt_tokens=4, output_tokens=1, arrival_s=20.0, scheduled_s=20.0, first_token_s=20.5, finish_s=20.5),
    )
    leaps = leap_log(
        dict(start_s=0.0, first_step_s=1.0, prompt_tokens=8, first_outputs=1, running=1, kv_blocks=2),
        dict(start_s=1.0, first_step_s=0.5, first_outputs=1, decodes=1, running=1, kv_blocks=3),
        dict(start_s=1.5, first_step_s=1.0, prompt_tokens=4, first_outputs=2, decodes=1, running=2, kv_blocks=4),
        dict(start_s=2.5, first_step_s=0.5, first_outputs=1, decodes=1, running=1, kv_blocks=2),
        dict(start_s=20.0, first_step_s=0.5, prompt_tokens=4, first_outputs=1, running=1, kv_blocks=1),
    )
    return make_result(requests, leaps)


def tiered() -> Result:
    """The run of `tiny` with a tier of 25 blocks of 4 tokens and 100 bytes; B is loaded, C found on the device.

    B loads 3 of its 4 tokens in 0.25 s from 1 s on; half a second after the start it is scheduled. Of two blocks of A, and two of another
    request, three are stored, one in vain, and one evicted.
    """
    result = tiny()
    requests = dataclasses.replace(
        result.requests,
        cached_tokens=np.array([0, 0, 2], np.int32),
        tier_hit_tokens=np.array([0, 3, 0], np.int32),
        tier_load_start_s=np.array([NEVER, 1.0, NEVER]),
        tier_load_end_s=np.array([NEVER, 1.25, NEVER]),
    )
    counts = dict(tier_evictions=1, tier_loaded_blocks=1, tier_stored_blocks=3, tier_failed_stores=1, tier_flush_s=0.125)
    instances = dataclasses.replace(result.instances, **{name: np.array([count]) for name, count in counts.items()})
    tiers = TierSizes(block_size=np.array([4]), block_bytes=np.array([100.0]), capacity_blocks=np.array([25]))
    return dataclasses.replace(result, requests=requests, instances=instances, tiers=tiers)


def random_result(seed: int, instances: int = 2, leaps_each: int = 40) -> Result:
    """Consistent-looking noise: non-overlapping leaps with gaps on each instance, requests with ordered times."""
    rng = np.random.default_rng(seed)
    rows = []
    for instance in range(instances):
        clock = rng.uniform(0.0, 2.0)
        for _ in range(leaps_each):
            steps, running, blocks = int(rng.integers(1, 9)), int(rng.integers(1, 20)), int(rng.integers(1, 90))
            first, following, slope = rng.uniform(0.01, 0.3), rng.uniform(0.01, 0.05), rng.uniform(0.0, 0.001)
            rows.append(
                dict(
                    instance=instance, start_s=clock, first_step_s=first, next_step_s=following, slope_s=slope, steps=steps,
                    prompt_tokens=int(rng.integers(0, 500)), first_outputs=running, decodes=running // 2, outputs=running, running=running,
                    resumed=running // 4, resumed_gap_s=running // 4 * 0.7, kv_blocks=blocks, kv_blocks_last=blocks + steps,
                )
            )  # fmt: skip
            clock += first + (steps - 1) * following + slope * (steps - 1) * (steps - 2) / 2 + rng.choice([0.0, 0.4])
    rows.sort(key=lambda r: r["start_s"])
    arrivals = np.sort(rng.uniform(0.0, 8.0, 60))
    requests = [
        dict(
            instance=int(rng.integers(instances)), arrival_s=t, scheduled_s=(s := t + rng.exponential(1.0)), first_token_s=s + 0.1,
            finish_s=s + 0.1 + rng.exponential(1.0), output_tokens=int(rng.integers(1, 30)), prompt_tokens=int(rng.integers(1, 300)),
        )
        for t in arrivals
    ]  # fmt: skip
    return make_result(request_log(*requests), leap_log(*rows), num_blocks=(100,) * instances)


def two_sessions(cut: bool = False) -> Result:
    """Session "a" has three calls, "b, too" two at once and one when both are done; requests 0, 3, 4 and 1, 2, 5.

    a: a call from 0 to 2 s, 3 s of thinking, a call from 5 to 6 s, no pause, one from 6 to 10 s: 10 s, of which 7 in calls.
    b: a call from 1 to 2 s, beside it another one from 1 to 4 s; the last starts 1 s after both, from 5 to 6 s: 5 s, of which 4 in calls.
    TTFT is 1 s where nothing is cached, else 0.5 s. When it is cut, the last call of "a" is under way, and that of "b, too" unsent.
    """
    row = lambda arrival, finish, prompt, cached, instance=0: dict(
        arrival_s=arrival, scheduled_s=arrival, first_token_s=arrival + (0.5 if cached else 1.0), finish_s=finish,
        prompt_tokens=prompt, output_tokens=4, cached_tokens=cached, instance=instance,
    )  # fmt: skip
    rows = [row(0.0, 2.0, 10, 0), row(1.0, 2.0, 20, 0), row(1.0, 4.0, 20, 0), row(5.0, 6.0, 16, 12), row(6.0, 10.0, 24, 20, 1)]
    rows.append(row(5.0, 6.0, 30, 24))
    if cut:
        rows[4]["finish_s"] = NEVER
        rows[5] = dict(prompt_tokens=30, output_tokens=4, arrival_s=NEVER, instance=-1)
    return dataclasses.replace(make_result(request_log(*rows)), sessions=waiting(), status=Status.TICK_LIMIT if cut else Status.FINISHED)


def waiting() -> Sessions:
    """The sessions of `two_sessions`."""
    session, turn = np.array([0, 1, 1, 0, 0, 1]), np.array([0, 0, 1, 1, 2, 2])
    before, after, delay_s = np.array([0, 3, 1, 2]), np.array([3, 4, 5, 5]), np.array([3.0, 0.0, 2.5, 1.0])
    return from_waits(session, ("a", "b, too"), turn, before, after, delay_s).validate()


def pools(roles: tuple[Role, ...], capacity: tuple[float, ...], path: np.ndarray, **more) -> Pools:
    """Pools of instances with a device each; the last link has infinite capacity and stands for none."""
    pairs = np.zeros((len(roles), len(roles)))
    facts = {
        "block_size": np.full(len(roles), 4),
        "setup_s": pairs,
        "per_byte_s": pairs,
        "link_names": tuple(f"wire {i}" for i in range(len(capacity))),
        **more,
    }
    return Pools(roles, devices=np.ones(len(roles), int), path=path, capacity=np.array((*capacity, np.inf)), **facts)


def handed_over() -> Result:
    """A prefill instance (0) and two decode instances (1 and 2); three requests, the last of which stays on its decode instance.

    A comes at 0 s, prefills from 0.5 to 1.5 s, and moves 100 bytes from 2 to 4 s on wires 0 and 1; its first token comes at 4.5 s.
    B comes at 1 s, prefills from 1.5 to 2.5 s, and moves 300 bytes from 3 to 6 s on wires 0 and 2; its first token comes at 6.5 s.
    C comes at 2 s and prefills from 2 to 3 s on instance 2. Wires carry 100, 200 and 200 bytes/s. A transfer ends with 0.5 s of set-up.
    """
    requests = request_log(
        dict(
            instance=1, prompt_tokens=8, output_tokens=3, arrival_s=0.0, scheduled_s=0.5, first_token_s=4.5, finish_s=8.0, cached_tokens=2
        ),
        dict(instance=2, prompt_tokens=24, output_tokens=2, arrival_s=1.0, scheduled_s=1.5, first_token_s=6.5, finish_s=7.0),
        dict(instance=2, prompt_tokens=4, output_tokens=2, arrival_s=2.0, scheduled_s=2.0, first_token_s=3.0, finish_s=3.5),
    )
    log = HandoverLog(
        prefill_instance=np.array([0, 0, -1], np.int32),
        prefill_scheduled_s=np.array([0.5, 1.5, NEVER]),
        prefill_finish_s=np.array([1.5, 2.5, NEVER]),
        transfer_start_s=np.array([2.0, 3.0, NEVER]),
        transfer_end_s=np.array([4.0, 6.0, NEVER]),
        transfer_bytes=np.array([100.0, 300.0, 0.0]),
        prefill_cached_tokens=np.array([2, 0, 0], np.int32),
        decode_scheduled_s=np.array([4.25, 6.0, NEVER]),
        decode_cached_tokens=np.array([0, 4, 0], np.int32),
    )
    path = np.full((3, 3, 4), 3)
    path[0, 1, :2], path[0, 2, :2] = (0, 1), (0, 2)
    leaps = leap_log(
        dict(instance=0, start_s=0.5, first_step_s=1.0, prompt_tokens=8, first_outputs=1, running=1, kv_blocks=2),
        dict(instance=0, start_s=1.5, first_step_s=1.0, prompt_tokens=24, first_outputs=1, running=1, kv_blocks=8),
        dict(instance=2, start_s=2.0, first_step_s=1.0, prompt_tokens=4, first_outputs=1, running=1, kv_blocks=1),
        dict(instance=1, start_s=4.25, first_step_s=0.25, first_outputs=1, running=1, kv_blocks=3),
        dict(instance=2, start_s=6.0, first_step_s=0.5, first_outputs=1, running=1, kv_blocks=7),
    )
    result = make_result(requests, leaps, num_blocks=(10, 10, 10))
    roles = (Role.PREFILL, Role.DECODE, Role.DECODE)
    return dataclasses.replace(result, handovers=log, pools=pools(roles, (100.0, 200.0, 200.0), path, setup_s=np.full((3, 3), 0.5)))


def without_leaps(result: Result) -> Result:
    return dataclasses.replace(result, leaps=None)
