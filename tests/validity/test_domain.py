"""The domain of validity of a calibration: what a run reached, the warnings about it, and how far intervals widen."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

import simjax
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.timing import cluster_timing
from simjax.cluster.warnings import beyond_context
from simjax.job import Run
from simjax.latency.priors import CORRECTION_TOKENS
from simjax.latency.profiles.profile import Seen
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.uncertainty.widths import OCTAVE_SD, PRIOR_SD, STRANGER_SD, widths
from simjax.validity.groups import InstanceGroup, instance_groups
from simjax.validity.reach import reach
from tests.calibrate.calibrated import LLAMA, SEEN, calibrated, saved

LIMITS = simjax.InstanceLimits(max_num_seqs=16, max_num_batched_tokens=512)


def simulated(path: Path | None, *more: str) -> Run:
    """40 requests of 300 + 40 tokens, faster than an engine with 16 seats serves them."""
    lengths = ["workload.prompt.dist=fixed", "workload.prompt.tokens=300", "workload.output.dist=fixed", "workload.output.tokens=40"]
    limits = ["scheduler.max_num_seqs=16", "scheduler.max_num_batched_tokens=512", "workload.num_requests=40", "workload.rate=200"]
    return simjax.run(simjax.compose([*([] if path is None else [f"profile={path}"]), *lengths, *limits, *more]))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile that has seen less than the run of `simulated` holds."""
    seen = replace(SEEN, tokens=(2, 128), sequences=(1, 4), context=(5, 200))
    return saved(tmp_path_factory.mktemp("profiles") / "my.yaml", calibrated(seen=seen))


@pytest.fixture(scope="module")
def overloaded(path: Path) -> Run:
    return simulated(path)


def test_what_a_run_reached_is_in_its_log(overloaded: Run) -> None:
    reached = reach(overloaded.cluster.instances, overloaded.result)
    assert reached == Seen((1, 512), (1, 16), (340, 340), (LLAMA,), (1,))


def test_every_range_that_was_left_is_told_with_both_numbers(overloaded: Run, path: Path) -> None:
    assert overloaded.warnings == (
        f"{path}: calibrated on steps of 2 to 128 tokens, this run went down to 1 and to 512; intervals are widened",
        f"{path}: calibrated on 1 to 4 sequences a step, this run went to 16; intervals are widened",
        f"{path}: calibrated on requests of 5 to 200 tokens, this run went to 340; intervals are widened",
    )


def test_nothing_is_told_within_the_domain(tmp_path: Path) -> None:
    path = saved(tmp_path / "my.yaml", calibrated(seen=Seen((1, 512), (1, 16), (200, 340), (LLAMA,), (1,))))
    assert simulated(path).warnings == ()


def test_limits_that_exceed_what_was_measured_are_not_told_as_well(tmp_path: Path) -> None:
    narrow = replace(calibrated(), valid=replace(calibrated().valid, tokens=(1, 256), sequences=(1, 8), context=(1, 300)))
    narrow = replace(narrow, calibration=replace(narrow.calibration, seen=replace(SEEN, tokens=(1, 256), sequences=(1, 64))))
    path = saved(tmp_path / "my.yaml", narrow)
    run = simulated(path)
    timing = cluster_timing(run.cluster.instances, LatencySource(profile=path))
    before = " ".join([*timing.warnings, *beyond_context(timing.measured, run.workload.longest_tokens)])
    assert "max_num_batched_tokens=512 exceeds" in before and "max_num_seqs=16 exceeds" in before and "longest measured context" in before
    tokens, *others = sorted(run.warnings)
    assert tokens == f"{path}: calibrated on steps of 1 to 256 tokens, this run went to 512; intervals are widened"
    assert len(others) == 2 and not any("max_num_batched_tokens" in line for line in others), "sequences and context were seen"


def test_models_and_degrees_that_took_no_part_are_told_once(path: Path) -> None:
    run = simulated(path, "model=qwen3-8b", "cluster.tensor_parallel_size=2")
    assert [line for line in run.warnings if "steps" not in line and "sequences" not in line and "requests" not in line] == [
        f"{path}: calibrated on {LLAMA}, used for Qwen/Qwen3-8B; intervals are widened",
        f"{path}: calibrated on tensor_parallel_size=1, used for 2; intervals are widened",
    ]


def test_profiles_without_a_calibration_say_what_is_known_before_the_run() -> None:
    plain = simulated(None)
    timing = cluster_timing(plain.cluster.instances, LatencySource())
    assert plain.warnings == timing.warnings
    assert [line for line in plain.warnings if "coefficients for any model on h100" in line]


def group(seen: Seen, discrepancy: float = 0.01, model: str = "llama-3.1-8b", degree: int = 1) -> InstanceGroup:
    return InstanceGroup(calibrated(discrepancy=discrepancy, seen=seen), load_model(model), degree, (0,))


def test_within_the_domain_only_the_discrepancy_is_left() -> None:
    found = widths(group(SEEN), replace(SEEN, tokens=(1, 2048), sequences=(1, 99)))
    assert found.steps == pytest.approx((0.01,) * 5)
    assert (found.decode, found.prefill, found.collectives) == (pytest.approx(0.01), pytest.approx(0.01), False)


def test_larger_steps_widen_the_corrections_of_those_steps() -> None:
    seen = replace(SEEN, tokens=(1, 256))
    found = widths(group(seen), replace(SEEN, tokens=(1, 1024), sequences=(1, 10)))
    at = dict(zip(CORRECTION_TOKENS, found.steps, strict=True))
    assert at[8] == at[32] == at[128] == pytest.approx(0.01)
    assert at[512] == pytest.approx(math.hypot(0.01, OCTAVE_SD))
    assert at[2048] == pytest.approx(math.hypot(0.01, 2 * OCTAVE_SD)), "as far as the run goes: 1,024 tokens"
    assert found.decode == pytest.approx(0.01)
    assert found.prefill == pytest.approx(math.hypot(0.01, 2 * OCTAVE_SD))


def test_more_sequences_and_longer_contexts_widen_attention() -> None:
    seen = replace(SEEN, sequences=(1, 16), context=(1, 1000))
    found = widths(group(seen), replace(SEEN, tokens=(1, 16), sequences=(1, 128), context=(1, 4000)))
    assert found.decode == pytest.approx(math.hypot(0.01, 3 * OCTAVE_SD, 2 * OCTAVE_SD))
    assert found.prefill == pytest.approx(math.hypot(0.01, 2 * OCTAVE_SD))
    at = dict(zip(CORRECTION_TOKENS, found.steps, strict=True))
    assert at[8] == pytest.approx(0.01)
    assert at[32] == pytest.approx(math.hypot(0.01, OCTAVE_SD)) and at[128] == pytest.approx(math.hypot(0.01, 3 * OCTAVE_SD))


def test_smaller_batches_than_those_seen_widen_small_steps() -> None:
    seen = replace(SEEN, tokens=(32, 2048), sequences=(32, 64))
    found = widths(group(seen), replace(SEEN, tokens=(1, 2048), sequences=(1, 64)))
    at = dict(zip(CORRECTION_TOKENS, found.steps, strict=True))
    assert at[8] == pytest.approx(math.hypot(0.01, 5 * OCTAVE_SD, 5 * OCTAVE_SD)), "down to one token"
    assert at[32] == at[2048] == pytest.approx(0.01)


def test_another_model_or_degree_widens_all_steps() -> None:
    inside = replace(SEEN, tokens=(1, 2048), sequences=(1, 99))
    stranger = math.hypot(0.01, STRANGER_SD)
    model = widths(group(SEEN, model="qwen3-14b"), inside)
    assert model.steps == pytest.approx((stranger,) * 5) and not model.collectives
    degree = widths(group(SEEN, degree=2), inside)
    assert degree.steps == pytest.approx((stranger,) * 5) and degree.collectives
    seen = widths(group(replace(SEEN, tensor_parallel_sizes=(1, 2)), degree=2), inside)
    assert seen.steps == pytest.approx((0.01,) * 5) and not seen.collectives


def test_a_profile_that_was_never_held_against_a_run() -> None:
    never = replace(calibrated(), calibration=None)
    found = widths(InstanceGroup(never, load_model("llama-3.1-8b"), 2, (0,)), None)
    assert found.steps == (PRIOR_SD,) * 5 and found.decode == found.prefill == PRIOR_SD and found.collectives


def test_instances_are_grouped_by_profile_model_and_degree() -> None:
    h100, l40s = (simjax.load_device(name) for name in ("h100", "l40s"))
    llama, qwen = (simjax.load_model(name) for name in ("llama-3.1-8b", "qwen3-8b"))
    one = simjax.InstanceSpec(llama, h100, limits=LIMITS)
    many = (one, simjax.InstanceSpec(llama, l40s), simjax.InstanceSpec(qwen, h100), one, simjax.InstanceSpec(llama, h100, Parallelism(2)))
    found = instance_groups(simjax.ClusterSpec(many), LatencySource())
    assert [x.indices for x in found] == [(0, 3), (1,), (2,), (4,)]
    assert [x.profile.device for x in found] == ["h100", "l40s", "h100", "h100"]
