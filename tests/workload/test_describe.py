import json

import numpy as np
import pytest
from rich.console import Console

from simjax.errors import SimjaxError
from simjax.plot.trace import plot_trace
from simjax.workload import LengthConfig, PrefixConfig, WorkloadConfig, build_workload
from simjax.workload.describe import describe
from simjax.workload.description_table import describe_table
from simjax.workload.formats import read_trace
from simjax.workload.synthetic.arrivals import poisson
from simjax.workload.synthetic.closed_loop import closed_loop
from simjax.workload.workload import Workload
from tests.data import data_path

# Statistics of real traces, computed independently when the data were collected: requests, span s, rate, CV of the gaps, peak 1/10/60 s,
# dispersion 1/60 s, distinct stamps, then mean/p50/p90/p99/max of inputs and of outputs, and the longest input + output.
# None: one 60 s bin has no dispersion.
KNOWN = {
    "traces/azure2023/AzureLLMInferenceTrace_conv.csv": (
        (19_366, 3501.7, 5.530, 1.09, 16, 9.8, 8.45, 1.39, 20.6, 19_366),
        (1155, 1020, 2734, 4142, 14_050),
        (211, 129, 424, 601, 1000),
        14_089,
    ),
    "traces/azure2023/AzureLLMInferenceTrace_code.csv": (
        (8_819, 3435.9, 2.566, 13.15, 67, 32.7, 10.53, 13.18, 160.5, 8_819),
        (2048, 1469, 5188, 7436, 7437),
        (28, 13, 55, 251, 1899),
        7_841,
    ),
    "traces/azure2024/AzureLLMInferenceTrace_code_1week.rows3765335-3766358.csv": (
        (1_024, 350.8, 2.916, 1.12, 10, 5.9, 3.10, 1.38, 1.0, 1_024),
        (3053, 2104, 7650, 7684, 7686),
        (24, 10, 47, 265, 1175),
        8_026,
    ),
    "traces/mooncake/conversation_trace.jsonl": (
        (12_031, 3537.0, 3.401, 3.03, 28, 6.7, 4.12, 7.89, 2.8, 1_180),
        (12_035, 6909, 27_367, 85_400, 126_195),
        (343, 350, 597, 1119, 2000),
        126_527,
    ),
    "traces/mooncake/synthetic_trace.jsonl": (
        (3_993, 1022.0, 3.906, 1.01, 13, 5.5, 4.55, 1.09, 13.0, 3_982),
        (15_325, 11_587, 38_611, 66_456, 191_378),
        (149, 69, 389, 768, 893),
        191_386,
    ),
    "llmservingsim/workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl": (
        (300, 29.1, 10.262, 0.94, 16, 11.2, 5.00, 0.91, None, 300),
        (857, 732, 1460, 2765, 3998),
        (653, 632, 770, 784, 1021),
        4_765,
    ),
    "llmservingsim/workloads/workload_me2_01_mixed.jsonl": (
        (608, 60.9, 9.967, 0.99, 20, 10.6, 10.02, 0.87, 290.2, 608),
        (9218, 2910, 24_418, 28_447, 31_383),
        (3021, 874, 11_809, 15_039, 15_890),
        32_593,
    ),
    "ispass26/datasets/sharegpt_pulse_req50_n6_delay15_pc.jsonl": (
        (300, 103.8, 2.881, 5.51, 16, 5.0, 2.70, 7.40, 1.0, 300),
        (275, 93, 805, 1607, 1807),
        (251, 236, 478, 761, 771),
        2_013,
    ),
}
PRINTED = (0, 1, 3, 2, 0, 1, 2, 2, 1, 0)  # decimals of the first group of figures


@pytest.mark.parametrize(("name", "known"), KNOWN.items(), ids=[name.split("/")[-1] for name in KNOWN])
def test_statistics_of_real_traces(name, known):
    found = describe(read_trace(data_path(name)).workload)
    arrivals = found.arrivals
    assert arrivals is not None
    figures = (
        found.requests,
        arrivals.span_s,
        arrivals.mean_rate,
        arrivals.interarrival_cv,
        arrivals.peak_rate_1s,
        arrivals.peak_rate_10s,
        arrivals.peak_rate_60s,
        arrivals.dispersion_1s,
        arrivals.dispersion_60s,
        arrivals.distinct_stamps,
    )
    for value, expected, decimals in zip(figures, known[0], PRINTED, strict=True):
        if expected is None:
            assert value is None
        else:
            assert value == pytest.approx(expected, abs=0.501 * 10.0**-decimals)  # the figures are printed with this number of decimals
    for stats, expected in ((found.prompt_tokens, known[1]), (found.output_tokens, known[2])):
        np.testing.assert_allclose((stats.mean, stats.p50, stats.p90, stats.p99, stats.max), expected, rtol=0, atol=0.501)
    assert found.max_total_tokens == known[3]


def test_failed_burstgpt_requests_are_the_only_difference_to_its_known_statistics():
    """The known figures count the 17 failures of 0 and 0 tokens: same span and totals, other means."""
    found = describe(read_trace(data_path("traces/burstgpt/BurstGPT_1.first400.csv")).workload)
    assert found.arrivals is not None and found.arrivals.span_s == 37_269.0
    assert found.prompt_tokens.mean * 383 / 400 == pytest.approx(520, abs=0.5)
    assert found.output_tokens.mean * 383 / 400 == pytest.approx(277, abs=0.5)
    assert (found.prompt_tokens.max, found.output_tokens.max, found.max_total_tokens) == (2126, 2019, 3217)


def test_token_rates_of_azure_conv():
    arrivals = describe(read_trace(data_path("traces/azure2023/AzureLLMInferenceTrace_conv.csv")).workload).arrivals
    assert arrivals is not None
    assert arrivals.prompt_tokens_per_s is not None and arrivals.output_tokens_per_s is not None
    assert (round(arrivals.prompt_tokens_per_s), round(arrivals.output_tokens_per_s)) == (6_386, 1_168)


def test_statistics_by_hand():
    workload = Workload(np.array([2.0, 2.0, 2.5, 6.0]), np.array([1, 2, 3, 4], np.int32), np.array([4, 3, 2, 2], np.int32), source="hand")
    found = describe(workload)
    arrivals = found.arrivals
    assert arrivals is not None
    assert (arrivals.span_s, arrivals.mean_rate, arrivals.distinct_stamps) == (4.0, 0.75, 3)
    assert (arrivals.peak_rate_1s, arrivals.peak_rate_10s, arrivals.peak_rate_60s) == (3.0, 0.4, 4 / 60)
    assert arrivals.dispersion_1s == pytest.approx(np.var([3, 0, 0, 0, 1]) / np.mean([3, 0, 0, 0, 1]))
    assert arrivals.dispersion_60s is None
    assert arrivals.interarrival_cv == pytest.approx(np.std([0, 0.5, 3.5]) / np.mean([0, 0.5, 3.5]))
    assert (arrivals.prompt_tokens_per_s, arrivals.output_tokens_per_s) == (2.5, 2.75)
    assert found.max_total_tokens == 6


def test_a_poisson_process_measures_as_one():
    """Within 5 standard errors: 1/sqrt(n) for the CV of n exponential gaps, sqrt(2/b) for the dispersion of b bins."""
    times = poisson(5.0, np.random.default_rng(3), n=20_000)
    ones = np.ones(20_000, np.int32)
    arrivals = describe(Workload(times, ones, ones)).arrivals
    assert arrivals is not None and arrivals.dispersion_1s is not None
    assert arrivals.interarrival_cv == pytest.approx(1.0, abs=5 / np.sqrt(20_000))
    assert arrivals.dispersion_1s == pytest.approx(1.0, abs=5 * np.sqrt(2 / 4_000))


CLOSED = closed_loop(np.array([3, 4, 5]), np.array([1, 1, 1]), concurrency=2, think_s=0.5)
AT_ONCE = Workload(np.zeros(3), np.array([3, 4, 5], np.int32), np.array([1, 1, 1], np.int32), source="at once")
ONE = Workload(np.zeros(1), np.array([3], np.int32), np.array([1], np.int32), source="one")
FEW = Workload(np.array([0.0, 0.2, 9.0]), np.array([3, 4, 5], np.int32), np.array([7, 7, 700], np.int32), source="few")


@pytest.mark.parametrize("workload", [CLOSED, AT_ONCE, ONE], ids=lambda w: w.source)
def test_without_spread_arrivals_there_are_no_arrival_statistics(workload):
    assert describe(workload).arrivals is None


LENGTHS = LengthConfig(dist="fixed", tokens=40)
CHATS = build_workload(
    WorkloadConfig(
        kind="sessions",
        rate=1.0,
        num_sessions=4,
        think_s=2.0,
        think_dist="fixed",
        turns=LengthConfig(dist="fixed", tokens=3),
        prompt=LENGTHS,
        followup=LENGTHS,
        output=LENGTHS,
        prefix=PrefixConfig(groups=1, tokens=33),
    )
)


def test_sessions_and_prefixes_by_hand():
    """Prompts of 40, 120 and 200 tokens after contents of 80, 160 and 240, of which the last token is not computed."""
    found = describe(CHATS)
    assert found.sessions is not None and found.prefixes is not None and found.arrivals is not None
    assert (found.sessions.sessions, found.sessions.waiting_calls, found.sessions.calls.max) == (4, 8, 3)
    assert (found.sessions.mean_pause_s, found.sessions.p50_pause_s, found.sessions.p90_pause_s, found.sessions.max_pause_s) == (2.0,) * 4
    assert found.arrivals.mean_rate == pytest.approx(3 / (CHATS.arrival_s[3] - CHATS.arrival_s[0]))
    assert found.arrivals.prompt_tokens_per_s is None and found.arrivals.distinct_stamps == 4
    # The three later sessions find 2 blocks of the 33 tokens they share; second calls 79 // 16 = 4 blocks, third ones 159 // 16 = 9.
    assert found.prefixes.ideal_hit_fraction == pytest.approx((3 * 2 + 4 * 4 + 4 * 9) * 16 / (4 * (40 + 120 + 200)))
    assert found.prefixes.hit_requests_fraction == 11 / 12
    assert found.prefixes.distinct_blocks == 14 + 3 * 12  # 239 // 16, less the 2 shared ones
    assert found.prefixes.lru[-1].blocks >= found.prefixes.distinct_blocks
    assert found.prefixes.lru[-1].hit_fraction == found.prefixes.ideal_hit_fraction
    small = describe(CHATS, block_size=8, cache_blocks=[3, 1000]).prefixes
    assert small is not None and (small.block_size, [cache.blocks for cache in small.lru]) == (8, [3, 1000])
    with pytest.raises(SimjaxError, match="cache_blocks=0; a cache holds at least 1 block"):
        describe(CHATS, cache_blocks=[0])


def test_smaller_blocks_find_more_of_mooncake():
    """0.3734 was counted block by block: whole blocks of 512 tokens found before, of all prompt tokens."""
    workload = read_trace(data_path("traces/mooncake/conversation_trace.jsonl")).workload
    found, coarse = describe(workload).prefixes, describe(workload, block_size=512).prefixes
    assert found is not None and coarse is not None and coarse.ideal_hit_fraction < found.ideal_hit_fraction
    assert coarse.ideal_hit_fraction == pytest.approx(0.3734, abs=5e-5)


@pytest.mark.parametrize("workload", [CLOSED, AT_ONCE, ONE, FEW, CHATS], ids=lambda w: w.source)
def test_a_description_prints_plots_and_serialises(workload, tmp_path):
    description = describe(workload)
    assert json.loads(json.dumps(description.to_dict(), allow_nan=False))["requests"] == len(workload)
    console = Console(width=100, record=True, file=(tmp_path / "out.txt").open("w"))
    console.print(describe_table(description))
    text = console.export_text()
    console.file.close()
    assert workload.source in text and "prompt" in text and str(description.prompt_tokens.max) in text
    assert ("closed loop" in text) == bool(workload.concurrency)
    assert ("calls of a session" in text) == ("without limit" in text) == ("sessions/s" in text) == (workload is CHATS)
    path = plot_trace(workload, tmp_path / "trace.png")
    assert path.read_bytes().startswith(b"\x89PNG")
