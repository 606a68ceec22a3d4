import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from simjax.errors import SimjaxError
from simjax.explore.pareto.replicates import PairedDifference, aggregate, paired_difference
from simjax.metrics.rows import METRICS

SEED = "workload.seed"
KEYS = ["model", "scheduler.max_num_seqs", SEED]


def table_of(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([{"point": i, "status": "finished", "reason": None, **row} for i, row in enumerate(rows)])


def random_rows(seed: int) -> list[dict]:
    """Designs with replicates of all kinds: finished or not, with metrics that are missing, in any order."""
    rng = np.random.default_rng(seed)
    rows = []
    for model, seqs, replicate in itertools.product(["a", "'b c'", "null"], [32, 64, "null"], range(6)):
        status = "finished" if model == "a" else rng.choice(["finished", "tick_limit", "invalid"])
        known = status != "invalid"
        rows.append(
            {"model": model, "scheduler.max_num_seqs": seqs, SEED: replicate, "status": str(status)}
            | {"requests_finished": int(rng.integers(100, 999)) if known else None}
            | {"ttft_p99_s": float(rng.exponential()) if known else None}
            | {"tpot_mean_s": float(rng.exponential()) if known and seqs != 64 and rng.random() < 0.5 else None}
        )
    rng.shuffle(rows)
    return rows


def by_hand(rows: list[dict]) -> list[dict]:
    """`aggregate`, written with dicts and the statistics module."""
    designs: dict[tuple, list[dict]] = {}
    for row in rows:
        designs.setdefault((row["model"], row["scheduler.max_num_seqs"]), []).append(row)
    found = []
    for (model, seqs), replicates in designs.items():
        used = [row for row in replicates if row["status"] == "finished"]
        line = {"model": model, "scheduler.max_num_seqs": seqs, "status": "finished" if len(used) == len(replicates) else "incomplete"}
        line["replicates"] = len(used)
        for metric in ("requests_finished", "ttft_p99_s", "tpot_mean_s"):
            values = [row[metric] for row in used if row[metric] is not None]
            line[metric] = statistics.fmean(values) if values else None
            n = len(values)
            line[f"{metric}_ci95"] = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
        found.append(line)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_aggregate_is_the_plain_arithmetic(seed):
    rows = random_rows(seed)
    found = aggregate(table_of(rows), KEYS)
    expected = by_hand(rows)
    assert list(found.columns) == list(expected[0])
    assert {"finished", "incomplete"} == set(found["status"]) and any(line["tpot_mean_s"] is None for line in expected)
    for (_, line), hand in zip(found.iterrows(), expected, strict=True):
        for name, value in hand.items():
            if value is None:
                assert pd.isna(line[name]), name
            elif isinstance(value, float):
                assert line[name] == pytest.approx(value, rel=1e-12), name
            else:
                assert line[name] == value, name


def test_all_metrics_and_only_metrics_are_averaged():
    rows = [{"workload.rate": 2.0, SEED: seed, "reason": None, "mine": 3.0, **dict.fromkeys(METRICS, 1.5)} for seed in range(3)]
    (line,) = aggregate(table_of(rows), ["workload.rate", SEED]).to_dict("records")
    expected = {"workload.rate": 2.0, "status": "finished", "replicates": 3}
    assert line == expected | {name: 1.5 for name in METRICS} | {f"{name}_ci95": 0.0 for name in METRICS}


def test_a_seed_counts_once_and_missing_ones_make_a_design_incomplete():
    rows = [{"model": "a", SEED: seed, "ttft_p99_s": value} for seed, value in [(0, 9.0), (1, 2.0), (0, 1.0)]]
    (line,) = aggregate(table_of(rows), ["model", SEED]).to_dict("records")
    assert (line["replicates"], line["ttft_p99_s"], line["status"]) == (2, 1.5, "finished")
    assert aggregate(table_of(rows), ["model", SEED], expected=2)["status"].tolist() == ["finished"]
    assert aggregate(table_of(rows), ["model", SEED], expected=3)["status"].tolist() == ["incomplete"]


def test_values_that_look_alike_are_different_designs():
    values = [1, 1.0, True, "1", None, "null", [1], [1.0], {"a": 1}]
    rows = [{"x": value, SEED: seed, "ttft_p99_s": float(i)} for seed in (0, 1) for i, value in enumerate(values)]
    frame = table_of(rows)
    frame["x"] = pd.Series([row["x"] for row in rows], dtype=object)
    found = aggregate(frame, ["x"])
    assert found["ttft_p99_s"].tolist() == [float(i) for i in range(len(values))]
    assert found["replicates"].tolist() == [2] * len(values)


def test_only_seeds_nobody_finished_and_nothing_at_all():
    rows = [{SEED: seed, "ttft_p99_s": 1.0 + seed} for seed in range(3)]
    (line,) = aggregate(table_of(rows), [SEED]).to_dict("records")
    assert line["replicates"] == 3 and line["ttft_p99_s"] == 2.0
    stalled = aggregate(table_of(rows).assign(status="stalled"), [SEED])
    assert stalled["status"].tolist() == ["incomplete"] and stalled["replicates"].tolist() == [0]
    assert stalled[["ttft_p99_s", "ttft_p99_s_ci95"]].isna().all(axis=None)
    assert len(aggregate(table_of(rows).iloc[:0], [SEED])) == 0


def test_the_interval_holds_the_mean_as_often_as_it_says():
    # 4,000 designs of 4 normal replicates; a true 95 % interval misses 200 of them, give or take.
    rng = np.random.default_rng(20)
    designs, replicates = 4000, 4
    draws = rng.normal(3.0, 2.0, (designs, replicates))
    table = pd.DataFrame(
        {"x": np.repeat(np.arange(designs), replicates), SEED: np.tile(np.arange(replicates), designs), "status": "finished"}
    ).assign(ttft_p99_s=draws.ravel())
    found = aggregate(table, ["x"])
    held = int(((found["ttft_p99_s"] - 3.0).abs() <= found["ttft_p99_s_ci95"]).sum())
    low, high = stats.binom.interval(0.999, designs, 0.95)
    assert low <= held <= high


def paired_table() -> pd.DataFrame:
    """Two designs whose difference is about 0.1 whatever the seed, on workloads that differ by ten times that."""
    rng = np.random.default_rng(1)
    hard = rng.normal(5.0, 1.0, 8)
    return table_of(
        [
            {"model": "a", "scheduler.max_num_seqs": seqs, SEED: seed, "ttft_p99_s": float(hard[seed] + more + rng.normal(0.0, 0.01))}
            for seqs, more in ((32, 0.1), (64, 0.0))
            for seed in range(8)
        ]
    )


def test_common_seeds_make_a_difference_far_surer_than_the_means():
    table = paired_table()
    found = paired_difference(table, {"scheduler.max_num_seqs": 32}, {"scheduler.max_num_seqs": 64}, "ttft_p99_s")
    a, b = (table.loc[table["scheduler.max_num_seqs"] == seqs, "ttft_p99_s"].to_numpy() for seqs in (32, 64))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.mean - found.ci95, found.mean + found.ci95) == pytest.approx(tuple(expected), rel=1e-9)
    assert found.pairs == 8 and abs(found.mean - 0.1) < found.ci95 < 0.05
    assert found.ci95 < aggregate(table, KEYS)["ttft_p99_s_ci95"].min() / 20


def test_only_seeds_that_both_finished_are_paired():
    table = paired_table()
    table.loc[[0, 9], "status"] = "tick_limit"  # seed 0 of the first, seed 1 of the second
    values = table["ttft_p99_s"].to_numpy()
    designs = {"scheduler.max_num_seqs": 32}, {"scheduler.max_num_seqs": 64.0, "model": "a"}
    found = paired_difference(table.sample(frac=1.0, random_state=0), *designs, "ttft_p99_s")
    assert found.pairs == 6 and found.mean == pytest.approx(np.mean(values[2:8] - values[10:16]), rel=1e-12)
    one = table[table[SEED] == 5]
    assert paired_difference(one, *designs, "ttft_p99_s") == PairedDifference(values[5] - values[13], None, 1)


def test_designs_are_found_by_values_or_by_their_text_in_a_file():
    rows = [
        {"profile.file": file, "routing": flag, SEED: seed, "ttft_p99_s": float(seed + i)}
        for i, (file, flag) in enumerate([("'my file'", "true"), ("null", "false")])
        for seed in range(3)
    ]
    found = paired_difference(table_of(rows), {"profile.file": None}, {"profile.file": "my file", "routing": True}, "ttft_p99_s")
    assert found == PairedDifference(1.0, 0.0, 3)


@pytest.mark.parametrize(
    ("designs", "metric", "said"),
    [
        (({"model": "a"}, {"scheduler.max_num_seqs": 64}), "ttft_p99_s", "model=a fits several points of a seed; give values"),
        (({"scheduler.max_num_seqs": 32}, {"scheduler.max_num_seqs": 48}), "ttft_p99_s", "no point of the table has scheduler.max"),
        (({"scheduler.max_num_seq": 32}, {}), "ttft_p99_s", "no column scheduler.max_num_seq; did you mean scheduler.max_num_seqs"),
        (({}, {}), "ttft_p9_s", "no column ttft_p9_s; did you mean ttft_p99_s"),
        (({}, {}), "status", "status: not a metric"),
    ],
)  # fmt: skip
def test_a_comparison_that_cannot_be_made_is_told_in_one_line(designs, metric, said):
    with pytest.raises(SimjaxError) as error:
        paired_difference(paired_table(), *designs, metric)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_no_common_seed_and_no_seed_column():
    table = paired_table()
    table.loc[:7, "status"] = "stalled"
    with pytest.raises(SimjaxError, match="no seed for which both finished"):
        paired_difference(table, {"scheduler.max_num_seqs": 32}, {"scheduler.max_num_seqs": 64}, "ttft_p99_s")
    with pytest.raises(SimjaxError, match=r"no column workload\.seed"):
        aggregate(table.drop(columns=SEED), KEYS)
