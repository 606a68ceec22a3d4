"""Elasticities and gradients on engines whose answers are known."""

import functools
import math

import pytest

from simjax.config.compose import compose_config, typed
from simjax.errors import SimjaxError
from simjax.job import run
from simjax.metrics.rows import result_row
from simjax.metrics.steady.window import WHOLE
from simjax.sensitivity.sensitivity import Sensitivity, sensitivity

# One request at a time, far apart: no request meets another one, so the schedule never changes. All host times are there.
IDLE = (
    "workload=constant",
    "workload.rate=0.1",
    "workload.num_requests=6",
    "workload.prompt={dist: fixed, tokens: 500, cv: null, mean: null}",
    "workload.output={dist: fixed, tokens: 100, cv: null, mean: null}",
    "profile.parameters={step_s: 0.0002, layer_s: 0.000001, sequence_s: 0.000003, overlap: 0.4}",
)
WHOLE_RUN = "metrics={warmup_s: 0, cooldown_s: 0}"  # few requests: an edge of a window that moves past one of them would be seen
SPEEDS = ("gemm_bandwidth", "gemm_compute", "elementwise_bandwidth", "decode_attention", "prefill_attention")
TIMES = ("kernel_floor", "step_s", "layer_s", "sequence_s", "api_pre_s", "api_post_s")


@functools.cache
def of(*overrides: str) -> Sensitivity:
    return sensitivity(typed(compose_config("sensitivity", list(overrides))))


def idle() -> Sensitivity:
    return of(*IDLE)


def value(name: str, parameter: str) -> float:
    found = idle().effect(name, parameter).elasticity
    assert found is not None
    return found


def test_equal_requests_need_one_seed() -> None:
    assert idle().seeds == (0,)
    assert all(x.standard_error is None for x in idle().effects)


@pytest.mark.parametrize("output", ["ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s", "e2e_mean_s"])
def test_latencies_are_as_much_longer_as_all_times_together(output: str) -> None:
    total = sum(value(output, name) for name in TIMES) - sum(value(output, name) for name in SPEEDS)
    assert total == pytest.approx(1.0, abs=2e-3)
    gradients = [idle().effect(output, name).gradient for name in (*TIMES, *SPEEDS)]
    signs = [1.0] * len(TIMES) + [-1.0] * len(SPEEDS)
    assert sum(sign * (x or 0.0) for sign, x in zip(signs, gradients, strict=True)) == pytest.approx(1.0, abs=1e-6)


def test_faster_kernels_shorten_tokens_by_what_they_take_of_the_step() -> None:
    faster = idle().effect("tpot_mean_s", "gemm_bandwidth")
    assert faster.elasticity is not None and -1.0 < faster.elasticity < -0.3
    assert faster.gradient == pytest.approx(faster.elasticity, rel=1e-3)
    # The hardware's bandwidth is that of every kernel.
    parts = sum(value("tpot_mean_s", name) for name in ("gemm_bandwidth", "elementwise_bandwidth", "decode_attention"))
    assert -1.0 < value("tpot_mean_s", "memory_bandwidth") < 0.0
    assert value("tpot_mean_s", "memory_bandwidth") == pytest.approx(parts, abs=0.02)


@pytest.mark.parametrize("parameter", ["api_pre_s", "api_post_s"])
def test_api_times_have_their_share_of_the_first_token(parameter: str) -> None:
    effect = idle().effect("ttft_mean_s", parameter)
    ttft_s = idle().outputs["ttft_mean_s"]
    assert ttft_s is not None and effect.value is not None
    assert effect.elasticity == pytest.approx(effect.value / ttft_s, rel=1e-3)
    assert effect.gradient == pytest.approx(effect.value / ttft_s, rel=1e-8)  # differences over 1e-4 are as near as that


def test_what_has_no_effect_is_zero() -> None:
    for name in ("num_gpu_blocks", "max_num_seqs", "max_num_batched_tokens", "arrival_rate"):
        assert value("ttft_mean_s", name) == pytest.approx(0.0, abs=1e-12)
    assert value("tpot_mean_s", "api_pre_s") == pytest.approx(0.0, abs=1e-9)


def test_gradients_and_outputs_are_those_of_the_run() -> None:
    config = typed(compose_config("run", list(IDLE)))
    done = run(config)
    row = result_row(done.result, None, done.cluster.num_devices)
    assert idle().outputs == {name: pytest.approx(row[name], rel=1e-12) for name in idle().outputs}


def test_the_order_is_that_of_the_first_output() -> None:
    sizes = [abs(x.elasticity or 0.0) for x in idle().effects if x.output == "ttft_mean_s"]
    assert sizes == sorted(sizes, reverse=True)
    assert [x.parameter for x in idle().effects if x.output == "e2e_mean_s"] == idle().parameters


BUSY = (
    WHOLE_RUN,
    "workload.num_requests=150",
    "workload.rate=20",
    "scheduler.max_num_seqs=24",
    "outputs=[ttft_mean_s,tpot_mean_s,output_tokens_per_s,goodput_requests_per_s,preemptions]",
    "slo.ttft_s=2",
    "parameters=[max_num_seqs,arrival_rate,gemm_bandwidth,step_8]",
    "seeds=3",
)


def test_a_full_engine_waits_for_seats() -> None:
    busy = of(*BUSY)
    assert busy.seeds == (0, 1, 2)
    seats = busy.effect("ttft_mean_s", "max_num_seqs")
    assert seats.value == 24.0 and seats.gradient is None
    assert seats.elasticity is not None and seats.standard_error is not None
    assert seats.elasticity < -4.0 * seats.standard_error
    speed = busy.effect("output_tokens_per_s", "gemm_bandwidth")
    assert speed.elasticity is not None and speed.elasticity > 0.3
    assert speed.gradient == pytest.approx(speed.elasticity, abs=0.1)  # a backlog from the start: the schedule hardly changes
    assert busy.effect("goodput_requests_per_s", "gemm_bandwidth").gradient is None  # a count of requests
    assert busy.effect("preemptions", "gemm_bandwidth").elasticity is None  # there are none, and nothing is a percent of that
    assert list(busy.texts) == list(dict.fromkeys(x.parameter for x in busy.effects))


def test_the_elasticity_is_the_difference_of_two_runs() -> None:
    slopes = []
    for seed in range(3):
        own = [x for x in BUSY if not x.startswith(("outputs", "parameters", "seeds", "scheduler"))] + [f"workload.seed={seed}"]
        runs = [run(typed(compose_config("run", [*own, f"scheduler.max_num_seqs={limit}"]))) for limit in (23, 25)]
        low, high = (result_row(done.result, None, 1, window=WHOLE)["ttft_mean_s"] for done in runs)
        assert low and high
        slopes.append(math.log(high / low) / math.log(25 / 23))
    assert of(*BUSY).effect("ttft_mean_s", "max_num_seqs").elasticity == pytest.approx(sum(slopes) / 3, rel=1e-9)


def test_clients_of_a_closed_loop_and_engines_of_two_kinds() -> None:
    found = of(
        "workload=closed_loop",
        "workload.concurrency=8",
        "workload.num_requests=40",
        WHOLE_RUN,
        "cluster.groups=[{device: h100}, {device: l40s, tensor_parallel_size: 2}]",
        "outputs=[e2e_mean_s,duration_s]",
        "seeds=1",
    )
    assert "arrival_rate" not in found.parameters
    clients = found.effect("e2e_mean_s", "concurrency")
    assert clients.value == 8.0 and clients.elasticity is not None and clients.elasticity > 0.0
    assert found.effect("e2e_mean_s", "memory_bandwidth").value is None  # 3.35 TB/s and 0.864 TB/s
    link = found.effect("duration_s", "link_latency")
    assert link.gradient is not None and link.gradient > 0.0
    memory = found.effect("duration_s", "memory_bandwidth")
    assert memory.gradient == pytest.approx(memory.elasticity, abs=0.1)


@pytest.mark.parametrize(
    "workload",
    [
        ("workload=sessions", "workload.rate=0.5", "workload.num_sessions=20", "scheduler.enable_prefix_caching=false"),
        ("workload=closed_loop", "workload.concurrency=16", "workload.num_requests=200", "workload.think_s=1"),
    ],
)
def test_calls_after_a_pause_are_in_the_frame_of_the_engine(workload: tuple[str, ...]) -> None:
    """Taken literally, the gradients of their TTFT are tens to hundreds of times too large."""
    found = of(*workload, WHOLE_RUN, "step=0.1", "seeds=2", "outputs=[ttft_mean_s,tpot_mean_s]", "parameters=[memory_bandwidth,peak_flops]")
    for name in found.parameters:
        for output in ("ttft_mean_s", "tpot_mean_s"):
            effect = found.effect(output, name)
            assert effect.gradient == pytest.approx(effect.elasticity, abs=0.1), (name, output)
    assert (found.effect("ttft_mean_s", "memory_bandwidth").gradient or 0.0) < -0.1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("outputs=[ttft_men_s]", "did you mean ttft_mean_s"),
        ("outputs=[energy_j]", "energy_j needs power: set power=utilization"),
        ("outputs=[slo_attainment]", "slo.ttft_s"),
        ("parameters=[gem_bandwidth]", "did you mean gemm_bandwidth"),
        ("parameters=[step_s]", "it is 0 here"),
        ("parameters=[link_latency]", "tensor_parallel_size"),
        ("parameters=[concurrency]", "closed loop"),
        ("step=0", "step=0.0"),
        ("seeds=0", "seeds=0"),
    ],
)
def test_mistakes(override: str, said: str) -> None:
    with pytest.raises(SimjaxError, match=said):
        sensitivity(typed(compose_config("sensitivity", [override])))
