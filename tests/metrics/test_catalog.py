"""The catalogue of metrics: its entries, their numbers, and a metric that only a test knows."""

import dataclasses
import json
import re

import numpy as np
import pytest

from simjax.engine.host.result import Result, Status
from simjax.explore.pareto.objective import against_direction, check_columns, columns_of, parse_objective
from simjax.metrics.catalog import CATALOG, INSTANCE_CATALOG, Metric, label, listing, short_label
from simjax.metrics.catalog.instances import of_instances
from simjax.metrics.catalog.metric import always, catalog_of
from simjax.metrics.latency import STATISTICS, statistics, statistics_of
from simjax.metrics.rows import METRICS, WHOLE_METRICS, result_row, result_rows, row_of_summary
from simjax.metrics.slo import Slo
from simjax.metrics.steps import leap_durations
from simjax.metrics.summary import instances_of, summarize
from simjax.uncertainty.intervals import Draws
from tests.metrics.factory import make_result, random_result, request_log, tiered, tiny, two_sessions, without_leaps

RUNS = {
    "tiny": tiny(),
    "random": random_result(0),
    "without leaps": without_leaps(random_result(1)),
    "sessions": two_sessions(),
    "cut": two_sessions(cut=True),
    "tiers": tiered(),
    "none finished": make_result(request_log(dict(arrival_s=1.0)), status=Status.STALLED),
}
SLO, GPUS = Slo(ttft_s=1.0, e2e_s=1.5), 4


@pytest.mark.parametrize("result", RUNS.values(), ids=RUNS)
def test_every_metric_of_a_row_is_that_of_the_summary(result: Result) -> None:
    row, summary = result_row(result, SLO, GPUS), json.loads(json.dumps(summarize(result, SLO, GPUS)))
    found = row_of_summary(summary)
    of_instances_only = {"busy_fraction", "prefill_tokens", "decode_tokens"}
    assert set(METRICS) - set(found) == {"gpus", "output_tokens_per_s_per_gpu"} | of_instances_only
    assert found == {name: row[name] for name in found}
    rate = row["output_tokens_per_s"]
    assert row["gpus"] == GPUS and row["output_tokens_per_s_per_gpu"] == (None if rate is None else rate / GPUS)


@pytest.mark.parametrize("result", RUNS.values(), ids=RUNS)
def test_numbers_are_those_of_plain_loops(result: Result) -> None:
    """The metrics again, from their definitions, one request at a time."""
    requests, row = result.requests, result_row(result, SLO, GPUS)
    done = [i for i in range(len(requests.finished)) if requests.finished[i]]
    first, last = (getattr(requests, f"{name}_s") for name in ("first_token", "finish"))
    ttft = {i: first[i] - requests.arrival_s[i] for i in done}
    e2e = {i: last[i] - requests.arrival_s[i] for i in done}
    tpot = {i: (last[i] - first[i]) / (requests.output_tokens[i] - 1) for i in done if requests.output_tokens[i] > 1}
    for latency, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        numbers = np.array(list(values.values()))
        expected = [numbers.mean(), *np.percentile(numbers, [50, 90, 95, 99]), numbers.max()] if values else [None] * 6
        assert [row[f"{latency}_{name}_s"] for name in STATISTICS] == expected
    span = max(last[i] for i in done) - min(requests.arrival_s) if done else None
    assert row["duration_s"] == span
    good = sum(ttft[i] <= 1.0 and e2e[i] <= 1.5 for i in done)
    totals = {"requests": len(done), "goodput_requests": good}
    totals |= {f"{kind}_tokens": sum(int(getattr(requests, f"{kind}_tokens")[i]) for i in done) for kind in ("prompt", "output")}
    for name, total in totals.items():
        assert row[f"{name}_per_s"] == (total / span if span else None)
    assert row["goodput_per_gpu"] == (good / span / GPUS if span else None)
    assert row["slo_attainment"] == good / len(requests.finished)
    assert (row["requests_finished"], row["requests_unfinished"]) == (len(done), len(requests.finished) - len(done))
    started = [i for i in range(len(requests.finished)) if np.isfinite(requests.scheduled_s[i])]
    asked, cached = (sum(int(getattr(requests, name)[i]) for i in started) for name in ("prompt_tokens", "cached_tokens"))
    assert row["prefix_hit_fraction"] == (cached / asked if asked else None)
    blocks, peak = of_instances(result, "num_blocks"), of_instances(result, "peak_blocks")
    assert row["kv_num_blocks"] == sum(blocks.tolist()) and row["kv_peak_used_fraction"] == max(peak / np.maximum(blocks, 1))
    assert (row["ticks"], row["steps"]) == (result.ticks, result.steps)


def test_entries_are_complete() -> None:
    assert tuple(CATALOG) == METRICS
    assert {name for name, metric in CATALOG.items() if metric.whole} == WHOLE_METRICS
    for name, metric in CATALOG.items():
        assert metric.name == name and metric.words and metric.better in ("higher", "lower", None)
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert (metric.unit == "") == metric.whole, "only a count has no unit"
        assert name.endswith("_s") == (metric.unit in ("s", "requests/s", "tokens/s")) or name.endswith("_per_gpu")
        assert metric.needs <= {"sessions", "cap", "limits", "gpus", "roles", "speculation", "lockstep", "tiers", "power", "prices"}
        assert not metric.interval or metric.path
    paths = [metric.path for metric in CATALOG.values() if metric.path]
    assert len(set(paths)) == len(paths)


def test_directions() -> None:
    better = {name: metric.better for name, metric in CATALOG.items()}
    assert {better[name] for name in METRICS if name.startswith(("ttft_", "tpot_", "e2e_", "session_"))} == {"lower"}
    rates = [name for name in METRICS if "_per_s" in name and not name.startswith(("backlog_", "cost_"))]
    assert {better[name] for name in [*rates, "goodput_per_gpu", "slo_attainment"]} == {"higher"}
    assert better["backlog_growth_per_s"] == "lower" and better["steady"] == "higher"
    assert better["gpus"] == better["preemptions"] == better["duration_s"] == "lower" and better["ticks"] is None


def test_the_catalogue_cannot_be_changed_and_has_each_name_once() -> None:
    with pytest.raises(TypeError):
        CATALOG["x"] = CATALOG["gpus"]  # pyright: ignore[reportIndexIssue]
    with pytest.raises(ValueError, match="two metrics have the name gpus"):
        catalog_of([CATALOG["gpus"], CATALOG["gpus"]])


def test_labels() -> None:
    assert label("ttft_p99_s") == "P99 TTFT, s" and short_label("ttft_p99_s") == "P99 TTFT"
    assert label("requests_total") == short_label("requests_total") == "requests"
    assert label("scheduler.max_num_seqs") == "scheduler.max_num_seqs", "a swept key keeps its name"
    assert listing()[0] == ("gpus", "", "GPUs", "lower") and ("ticks", "", "simulated ticks", "") in listing()
    assert [line[0] for line in listing()] == list(METRICS)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 77])
def test_statistics_are_those_of_numpy_bit_for_bit(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    expected = [np.mean(values), *np.percentile(values, [50, 90, 95, 99]), np.max(values)]
    assert list(statistics(values).values()) == expected
    assert statistics(values[:0]) == dict.fromkeys(STATISTICS)


def test_statistics_of_what_exists() -> None:
    rng = np.random.default_rng(4)
    values, there = rng.exponential(size=(5, 40)), rng.random((5, 40)) < np.array([[0.0], [0.1], [0.5], [0.9], [1.0]])
    found = statistics_of(np.where(there, values, np.inf), there, np)
    for row in range(5):
        each = statistics(values[row][there[row]])
        for name in STATISTICS:
            assert found[name][row] == pytest.approx(each[name] or 0.0, rel=1e-14)


@dataclasses.dataclass(frozen=True)
class CooledResult(Result):
    """A result with something that a later version may simulate."""

    coolant_j: float = 0.0


COOLANT = Metric(
    name="coolant_per_output_token_j",
    unit="J",
    better="lower",
    words="coolant per output token",
    value=lambda runs, xp: always(runs.each("coolant_j") / runs.clients.output_tokens, xp),
    path=("energy", "coolant_j"),
    interval=True,
)
WITH_COOLANT = catalog_of([*CATALOG.values(), COOLANT])


def cooled(result: Result, coolant_j: float) -> Result:
    return CooledResult(**{field.name: getattr(result, field.name) for field in dataclasses.fields(Result)}, coolant_j=coolant_j)


def test_a_new_metric_is_one_entry() -> None:
    results = [cooled(tiny(), 12.0), cooled(tiny(), 30.0), cooled(two_sessions(cut=True), 8.0)]
    rows = result_rows(results, [SLO] * 3, [GPUS] * 3, WITH_COOLANT)
    assert [row[COOLANT.name] for row in rows] == [2.0, 5.0, 0.5]
    assert [list(row) for row in rows] == [[*METRICS, COOLANT.name]] * 3
    assert [{name: row[name] for name in METRICS} for row in rows] == result_rows(results, [SLO] * 3, [GPUS] * 3)

    summary = summarize(results[0], SLO, GPUS, catalog=WITH_COOLANT)
    assert summary["energy"] == {"total_j": None, "per_output_token_j": None, "mean_power_w": None, "coolant_j": 2.0}
    assert row_of_summary(summary, WITH_COOLANT)[COOLANT.name] == 2.0
    draws = Draws(0.9, ({}, {}), tuple({"status": "finished", **row} for row in rows[:2]), slo=True, covers_load=False, warnings=())
    assert draws.intervals(WITH_COOLANT)["energy"] == {"coolant_j": [2.0, 5.0]}

    assert label(COOLANT.name, WITH_COOLANT) == "coolant per output token, J" and label(COOLANT.name) == COOLANT.name
    assert listing(WITH_COOLANT)[-1] == (COOLANT.name, "J", "coolant per output token", "lower")

    objective = parse_objective([], [COOLANT.name], [f"{COOLANT.name}_ci95<1"])
    check_columns(objective, columns_of(["device"], True, WITH_COOLANT))
    assert COOLANT.name not in columns_of(["device"], True)
    assert against_direction(objective, WITH_COOLANT) == []
    (line,) = against_direction(parse_objective([COOLANT.name], []), WITH_COOLANT)
    assert line == f"objective.maximize has {COOLANT.name}, of which lower is better"


def test_a_new_section_of_the_summary_needs_no_other_change() -> None:
    price = dataclasses.replace(
        COOLANT, name="price_usd", unit="$", path=("money", "total_usd"), value=lambda runs, xp: always(runs.gpus, xp)
    )
    assert summarize(tiny(), gpus=3, catalog=catalog_of([*CATALOG.values(), price]))["money"] == {"total_usd": 3}
    assert "slo" not in summarize(tiny(), gpus=3) and "sessions" not in summarize(tiny(), gpus=3)


def test_a_new_metric_of_instances_is_one_entry() -> None:
    result = random_result(3, instances=3)
    idle = Metric(
        "unused_blocks", "", None, "KV blocks never used", lambda x, xp: always(x.recorded("num_blocks") - x.recorded("peak_blocks"), xp)
    )
    found = instances_of(result, 5.0, catalog_of([*INSTANCE_CATALOG.values(), idle]))
    unused = of_instances(result, "num_blocks") - of_instances(result, "peak_blocks")
    assert [each["unused_blocks"] for each in found] == unused.tolist()
    assert [list(each) for each in found] == [["instance", *INSTANCE_CATALOG, "unused_blocks"]] * 3


def test_numbers_of_instances() -> None:
    result = random_result(6, instances=3)
    assert result.leaps is not None
    requests, summary = result.requests, summarize(result)
    for i, found in enumerate(summary["instances"]):
        mine = requests.instance == i
        done = mine & requests.finished
        assert found["instance"] == i and found["requests"] == mine.sum() and found["finished"] == done.sum()
        assert found["prompt_tokens"] == requests.prompt_tokens[done].sum() and found["output_tokens"] == requests.output_tokens[done].sum()
        busy_s = leap_durations(result.leaps)[result.leaps.instance == i].sum()
        assert found["num_blocks"] == 100 and found["busy_fraction"] == busy_s / summary["duration_s"]
        assert found["prefix_hit_fraction"] == requests.cached_tokens[mine].sum() / requests.prompt_tokens[mine].sum()
        recorded = {name: metric for name, metric in INSTANCE_CATALOG.items() if name not in ("prefill_tokens", "decode_tokens")}
        assert all(type(found[name]) is (int if metric.whole else float) for name, metric in recorded.items())
        assert found["prefill_tokens"] is found["decode_tokens"] is None  # the run did not record its activity
    assert all(each["busy_fraction"] is None for each in summarize(without_leaps(result))["instances"])


def test_against_the_direction() -> None:
    assert against_direction(parse_objective(["goodput_per_gpu", "ticks", "a.key"], ["ttft_p99_s", "gpus"])) == []
    assert against_direction(parse_objective(["ttft_p99_s"], ["requests_per_s"])) == [
        "objective.maximize has ttft_p99_s, of which lower is better",
        "objective.minimize has requests_per_s, of which higher is better",
    ]
