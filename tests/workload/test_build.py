"""Building a workload from the configuration."""

import json
import logging
from dataclasses import fields, replace

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from simjax.disk.paths import CONF
from simjax.errors import SimjaxError
from simjax.workload import LengthConfig, PrefixConfig, WorkloadConfig, build_workload, prefix_reuse
from simjax.workload.formats import FORMATS
from simjax.workload.synthetic.extent import STATIONARY, longest

LOGNORMAL = LengthConfig(dist="lognormal", mean=200.0, cv=0.8)
FIXED = LengthConfig(dist="fixed", tokens=10)
POISSON = WorkloadConfig(kind="poisson", rate=4.0, num_requests=200, prompt=LOGNORMAL, output=LOGNORMAL)
CLOSED = WorkloadConfig(kind="closed_loop", concurrency=8, num_requests=20, prompt=FIXED, output=FIXED)
TURNS = LengthConfig(dist="uniform", low=1, high=6)
SESSIONS = WorkloadConfig(
    kind="sessions", rate=0.5, num_sessions=50, think_s=8.0, turns=TURNS, prompt=LOGNORMAL, followup=LOGNORMAL, output=LOGNORMAL
)


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i},{10 * i + 10},{i + 1}\n" for i in range(10)))
    return str(path)


def trace(trace_file, **options):
    return WorkloadConfig(kind="trace", file=trace_file, **options)


def test_prompts_outputs_and_arrivals_have_streams_of_their_own():
    """Common random numbers: changing how one quantity is drawn leaves the others unchanged."""
    base = build_workload(POISSON)
    slower = build_workload(replace(POISSON, kind="gamma", cv=3.0, rate=1.0))
    np.testing.assert_array_equal(slower.prompt_tokens, base.prompt_tokens)
    np.testing.assert_array_equal(slower.output_tokens, base.output_tokens)
    longer = build_workload(replace(POISSON, prompt=LengthConfig(dist="zipf", alpha=1.0, max=500)))
    np.testing.assert_array_equal(longer.arrival_s, base.arrival_s)
    np.testing.assert_array_equal(longer.output_tokens, base.output_tokens)
    assert not np.array_equal(longer.prompt_tokens, base.prompt_tokens)
    # The same distribution for prompts and outputs does not give the same lengths.
    assert abs(np.corrcoef(base.prompt_tokens, base.output_tokens)[0, 1]) < 5 / np.sqrt(200)


def test_the_first_requests_do_not_depend_on_how_many_there_are():
    few, many = build_workload(POISSON), build_workload(replace(POISSON, num_requests=1000))
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:200])


def test_the_seed_decides_everything():
    again, other = build_workload(POISSON), build_workload(replace(POISSON, seed=1))
    base = build_workload(POISSON)
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(again, name), getattr(base, name))
        assert not np.array_equal(getattr(other, name), getattr(base, name))


def test_closed_loop_sends_the_first_and_leaves_the_rest_open():
    workload = build_workload(replace(CLOSED, think_s=1.5, ramp_s=4.0))
    assert (workload.concurrency, workload.think_s, len(workload)) == (8, 1.5, 20)
    np.testing.assert_array_equal(workload.arrival_s[:8], np.arange(8) * 0.5)
    assert np.all(np.isinf(workload.arrival_s[8:]))
    assert build_workload(CLOSED).arrival_s[:8].tolist() == [0.0] * 8
    assert build_workload(replace(CLOSED, concurrency=50)).concurrency == 20  # more than there are requests


def test_a_trace_keeps_its_own_lengths(trace_file):
    workload = build_workload(trace(trace_file))
    assert workload.prompt_tokens.tolist() == [10 * i + 10 for i in range(10)]
    assert workload.output_tokens.tolist() == list(range(1, 11))
    assert workload.arrival_s.tolist() == list(range(10))
    assert workload.source == "trace.csv"


def test_a_trace_is_cut_stretched_and_capped_in_that_order(trace_file):
    workload = build_workload(trace(trace_file, start_s=2.0, end_s=9.0, rate_scale=2.0, duration_s=2.5, num_requests=4))
    assert workload.arrival_s.tolist() == [0.0, 0.5, 1.0, 1.5] and workload.prompt_tokens[0] == 30
    assert len(build_workload(trace(trace_file, start_s=2.0, end_s=9.0, rate_scale=2.0, duration_s=2.5))) == 5
    assert np.diff(build_workload(trace(trace_file, rate=5.0)).arrival_s) == pytest.approx(0.2)
    assert len(np.unique(build_workload(trace(trace_file, jitter_s=1.0)).arrival_s % 1)) > 5


def test_lengths_of_a_trace_are_clipped_or_replaced(trace_file):
    clipped = build_workload(trace(trace_file, prompt=LengthConfig(min=30, max=60)))
    assert clipped.prompt_tokens.tolist() == [30, 30, 30, 40, 50, 60, 60, 60, 60, 60]
    assert clipped.output_tokens.tolist() == list(range(1, 11))
    replaced = build_workload(trace(trace_file, output=FIXED))
    assert set(replaced.output_tokens.tolist()) == {10} and replaced.prompt_tokens[1] == 20


def test_clipping_that_changes_the_workload_is_told_in_the_log(trace_file, caplog):
    shipped = LengthConfig(dist="lognormal", mean=650.0, cv=0.3, min=1, max=1024)
    build_workload(replace(POISSON, prompt=shipped, output=shipped, num_requests=2000))
    build_workload(trace(trace_file, prompt=LengthConfig(min=30, max=60)))  # asked for
    assert caplog.text == ""
    build_workload(replace(POISSON, prompt=replace(shipped, mean=8000.0)))
    assert "workload.prompt: min=1 and max=1024 cut 100 % of the lengths: their mean is 1024 instead of" in caplog.text
    build_workload(replace(POISSON, lengths_file=trace_file, output=LengthConfig(max=5), prompt=LengthConfig()))
    assert "workload.output: min=None and max=5 cut" in caplog.text


def test_lengths_drawn_from_a_file_stay_pairs_or_are_drawn_apart(trace_file):
    joint = build_workload(replace(POISSON, lengths_file=trace_file, prompt=LengthConfig(), output=LengthConfig()))
    assert np.all(joint.prompt_tokens == 10 * joint.output_tokens) and len(set(joint.prompt_tokens.tolist())) == 10
    apart = build_workload(
        replace(POISSON, prompt=LengthConfig(dist="trace", file=trace_file), output=LengthConfig(dist="trace", file=trace_file))
    )
    assert set(apart.prompt_tokens.tolist()) <= set(range(10, 101, 10)) and set(apart.output_tokens.tolist()) <= set(range(1, 11))
    assert not np.all(apart.prompt_tokens == 10 * apart.output_tokens)


def test_left_out_rows_are_told_in_the_log(tmp_path, caplog):
    path = tmp_path / "burst.csv"
    path.write_text("Timestamp,Request tokens,Response tokens\n1,5,6\n2,0,0\n3,-1,4\n4,5,6\n5,7,0\n")
    config = WorkloadConfig(kind="trace", file=str(path), on_bad_row="skip")
    with caplog.at_level(logging.INFO, logger="simjax"):
        workload = build_workload(config)
    assert workload.prompt_tokens.tolist() == [5, 5, 7] and workload.output_tokens.tolist() == [6, 6, 1]
    assert "1 of 5 rows are malformed and were skipped" in caplog.text and "1 of 5 requests failed or answered nothing" in caplog.text
    assert "1 of 5 requests failed when they were recorded; they are played as load" in caplog.text
    assert len(build_workload(replace(config, unanswered="drop"))) == 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (replace(POISSON, kind="poison"), "workload.kind='poison' is not known; did you mean poisson?"),
        (replace(POISSON, rate=-1.0), "workload: rate=-1; it must be positive"),
        (replace(POISSON, rate=None), "workload.rate is not set; kind=poisson needs it"),
        (replace(POISSON, num_requests=None, duration_s=1e-9), "no request arrives within duration_s=1e-09"),
        (
            replace(POISSON, cv=2.0),
            "workload.cv=2.0 has no effect with kind=poisson, only with gamma or weibull; workload.cv=null unsets it",
        ),
        (replace(POISSON, seed=-1), "workload.seed=-1; it must not be negative"),
        (replace(POISSON, prompt=LengthConfig(dist="lognorml")), "workload.prompt.dist='lognorml' is not known; did you mean lognormal?"),
        (replace(POISSON, prompt=LengthConfig()), "workload.prompt: log-normal lengths need exactly one of mean and median"),
        (replace(POISSON, output=LengthConfig(dist="fixed", tokens=-3)), "workload.output: tokens=-3 tokens; it must be at least 1"),
        (replace(POISSON, output=LengthConfig(dist="fixed")), "workload.output: tokens is not set; dist=fixed needs it"),
        (replace(POISSON, output=replace(LOGNORMAL, min=9, max=8)), "workload.output: max=8 tokens; it must be at least min=9"),
        (
            replace(POISSON, prompt=LengthConfig(dist="fixed", tokens=30000, max=4000)),
            r"workload\.prompt: tokens=30000 exceeds workload\.prompt\.max=4000; workload\.prompt\.max=null lifts that bound",
        ),
        (replace(POISSON, output=LengthConfig(dist="fixed", tokens=3, min=16)), r"tokens=3 is below workload\.output\.min=16"),
        (
            replace(POISSON, prompt=LengthConfig(dist="uniform", low=10, high=5000, max=4000)),
            r"high=5000 exceeds workload\.prompt\.max=4000",
        ),
        (replace(POISSON, prompt=LengthConfig(dist="uniform", low=10, high=50, min=16)), r"low=10 is below workload\.prompt\.min=16"),
        (replace(POISSON, output=LengthConfig(dist="trace")), "workload.output.file is not set; dist=trace needs a trace file"),
        (replace(POISSON, lengths_file="/nowhere.csv", prompt=LengthConfig(), output=LengthConfig()), "/nowhere.csv: no such file"),
        (replace(CLOSED, concurrency=0), "concurrency=0; a closed loop keeps at least 1"),
        (replace(CLOSED, num_requests=0), "num_requests=0; it must be at least 1"),
        (replace(CLOSED, think_s=-1.0), "think_s=-1; it must not be negative"),
        (replace(CLOSED, rate=2.0), "workload.rate=2.0 has no effect with kind=closed_loop"),
        (WorkloadConfig(kind="trace"), "workload.file is not set; kind=trace needs it"),
        (WorkloadConfig(kind="trace", file="/nowhere.csv"), "/nowhere.csv: no such file"),
        (WorkloadConfig(kind="trace", file="x", rate=1.0, rate_scale=2.0), "workload.rate=1 and workload.rate_scale=2 both set the rate"),
        (WorkloadConfig(kind="piecewise", piecewise=[[0, 1], [5]], num_requests=3), "workload: piecewise=.* must be a list of"),
        (replace(SESSIONS, num_sessions=0), "workload: num_sessions=0; it must be at least 1"),
        (replace(SESSIONS, think_s=None), r"workload\.think_s is not set; kind=sessions needs it"),
        (replace(SESSIONS, think_s=-1.0), "workload: think_s=-1; it must not be negative"),
        (replace(SESSIONS, think_dist="gauss"), "workload.think_dist='gauss' is not known; use exponential or fixed"),
        (replace(SESSIONS, rate=0.0), "workload: rate=0; it must be positive"),
        (replace(SESSIONS, num_sessions=None, duration_s=1e-9), "no session starts within duration_s=1e-09"),
        (replace(SESSIONS, turns=LengthConfig(dist="trace", file="x")), r"workload\.turns\.dist=trace: trace files have no turns"),
        (replace(SESSIONS, turns=LengthConfig()), r"workload\.turns: log-normal lengths need exactly one of mean and median"),
        (replace(SESSIONS, followup=LengthConfig(dist="trace")), r"workload\.followup\.file is not set; dist=trace needs .* from$"),
        (replace(SESSIONS, max_context_tokens=3), "workload: the first call of session 0 has .* tokens, more than max_context_tokens=3"),
        (replace(SESSIONS, lengths_file="x"), r"workload\.lengths_file=x has no effect with kind=sessions"),
        (replace(POISSON, turns=TURNS), r"workload\.turns has no effect with kind=poisson, only with sessions$"),
        (replace(POISSON, num_sessions=4), r"workload\.num_sessions=4 has no effect with kind=poisson, only with sessions or trace"),
        (replace(POISSON, prefix=PrefixConfig(groups=4)), r"workload\.prefix\.tokens is not set; workload\.prefix\.groups needs it"),
        (replace(POISSON, prefix=PrefixConfig(tokens=4)), r"workload\.prefix\.groups is not set; workload\.prefix\.tokens needs it"),
        (replace(POISSON, prefix=PrefixConfig(zipf=1.0)), r"workload\.prefix\.groups is not set; workload\.prefix\.zipf needs it"),
        (replace(POISSON, prefix=PrefixConfig(groups=0, tokens=4)), r"workload\.prefix: groups=0; it must be at least 1"),
        (replace(POISSON, prefix=PrefixConfig(groups=2, tokens=0)), r"workload\.prefix\.tokens=0; it must be at least 1"),
        (replace(POISSON, prefix=PrefixConfig(groups=2, tokens=4, zipf=-1.0)), r"workload\.prefix: zipf=-1; it must be positive"),
    ],
)
def test_wrong_values_are_one_line_errors(config, reason):
    with pytest.raises(SimjaxError, match=reason) as error:
        build_workload(config)
    assert "\n" not in str(error.value)


OTHER_KINDS = {"shared_prefix": "poisson", "classes": "poisson"}
OPTIONS = sorted(path.stem for path in (CONF / "workload").glob("*.yaml"))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_shipped_option_builds(name, trace_file):
    """Merge an option file into the structured config as Hydra does, which rejects unknown or ill-typed fields."""
    options = yaml.safe_load((CONF / "workload" / f"{name}.yaml").read_text())
    assert options.pop("defaults") == ["base_workload", "_self_"]
    assert options["kind"] == OTHER_KINDS.get(name, name)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(WorkloadConfig), options))
    assert isinstance(config, WorkloadConfig)
    if name == "trace":
        config.file = trace_file
    workload = build_workload(config)
    assert len(workload) == {"trace": 10, "pulse": 300}.get(name, 4_000) or name in ("piecewise", "sessions")
    assert workload.stationary == (options["kind"] in STATIONARY)
    assert (workload.prefixes is not None) == (name in ("sessions", "shared_prefix"))
    if name == "sessions":
        assert workload.sessions is not None and len(workload.sessions.names) == 430 and 1_500 < len(workload) < 3_000
        assert workload.longest_tokens <= 32_000
    elif name == "shared_prefix":
        assert prefix_reuse(workload).token_hit_fraction() > 0.4
    elif name != "trace":
        assert 600 < workload.prompt_tokens.mean() < 1100 and 600 < workload.output_tokens.mean() < 700


def test_the_options_are_the_kinds_and_the_trace_option_names_every_format():
    from simjax.workload.config import KINDS

    assert sorted([*KINDS, *OTHER_KINDS]) == OPTIONS
    text = (CONF / "workload" / "trace.yaml").read_text()
    assert all(name in text for name in FORMATS)
    assert all(field.metadata["words"] for field in fields(WorkloadConfig))


def test_sessions_grow_by_what_is_drawn():
    workload = build_workload(SESSIONS)
    s = workload.sessions
    assert s is not None and workload.prefixes is not None and len(s.names) == workload.known_arrivals == 50
    followups = []
    for before, after in zip(s.waited_for, s.then, strict=True):
        content = workload.prompt_tokens[before] + workload.output_tokens[before]
        assert s.turn[after] == s.turn[before] + 1 and workload.prefixes.shared_tokens(before, after) == content
        followups.append(workload.prompt_tokens[after] - content)
    assert len(followups) == len(workload) - 50 and min(followups) >= 1
    assert np.mean(followups) == pytest.approx(200, rel=0.3) and np.mean(s.delay_s) == pytest.approx(8.0, rel=0.3)
    assert set(np.bincount(s.session).tolist()) <= set(range(1, 7))


def test_pauses_are_exponential_or_fixed():
    """The coefficient of variation of n exponential pauses is 1 within 5 / sqrt(n)."""
    drawn = build_workload(replace(SESSIONS, num_sessions=400)).sessions
    assert drawn is not None
    assert drawn.delay_s.std() / drawn.delay_s.mean() == pytest.approx(1.0, abs=5 / np.sqrt(len(drawn.then)))
    fixed = build_workload(replace(SESSIONS, think_dist="fixed")).sessions
    assert fixed is not None and set(fixed.delay_s.tolist()) == {8.0}


def calls_of(workload, sessions):
    """(session, turn, prompt, output, pause before) of the calls of the first sessions."""
    s = workload.sessions
    pause = dict(zip(s.then.tolist(), s.delay_s.tolist(), strict=True))
    rows = zip(range(len(workload)), s.session, s.turn, workload.prompt_tokens, workload.output_tokens, strict=True)
    return sorted((int(k), int(t), int(p), int(o), pause.get(r)) for r, k, t, p, o in rows if k < sessions)


def test_the_first_sessions_do_not_depend_on_how_many_there_are_nor_on_their_rate():
    few, many = build_workload(SESSIONS), build_workload(replace(SESSIONS, num_sessions=200, rate=3.0))
    assert calls_of(few, 50) == calls_of(many, 50)
    np.testing.assert_allclose(few.arrival_s[:50], 6 * many.arrival_s[:50], rtol=1e-12)
    other = build_workload(replace(SESSIONS, turns=LengthConfig(dist="fixed", tokens=2)))
    assert [row[2] for row in calls_of(other, 50) if row[1] == 0] == [row[2] for row in calls_of(few, 50) if row[1] == 0]


def test_sessions_are_limited_by_time_requests_and_context():
    within = build_workload(replace(SESSIONS, num_sessions=None, duration_s=20.0))
    assert within.arrival_s[: within.known_arrivals].max() < 20 and calls_of(within, 5) == calls_of(build_workload(SESSIONS), 5)
    assert len(build_workload(replace(SESSIONS, num_requests=31))) == 31
    # Every session starts below 2,000 tokens.
    short = build_workload(replace(SESSIONS, max_context_tokens=2000))
    assert short.longest_tokens <= 2000 < build_workload(SESSIONS).longest_tokens
    single = build_workload(replace(SESSIONS, turns=LengthConfig(dist="fixed", tokens=1), followup=LengthConfig()))
    assert len(single) == single.known_arrivals == 50


def test_prefix_groups_share_their_first_tokens_and_nothing_else_changes():
    plain, shared = build_workload(POISSON), build_workload(replace(POISSON, prefix=PrefixConfig(groups=3, tokens=60)))
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(plain, name))
    assert shared.prefixes is not None
    length = np.minimum(shared.prompt_tokens, 60)
    pairs = [(a, b, shared.prefixes.shared_tokens(a, b)) for a in range(200) for b in range(a)]
    assert all(tokens in (0, min(length[a], length[b])) for a, b, tokens in pairs)
    same = np.mean([tokens > 0 for _, _, tokens in pairs])
    assert same == pytest.approx(1 / 3, abs=0.05)
    popular = build_workload(replace(POISSON, prefix=PrefixConfig(groups=50, tokens=60, zipf=1.5))).prefixes
    even = build_workload(replace(POISSON, prefix=PrefixConfig(groups=50, tokens=60))).prefixes
    assert popular is not None and even is not None and popular.sharers.max() > 3 * even.sharers.max()


def test_prefix_groups_go_with_closed_loops_traces_and_sessions(trace_file):
    prefix = PrefixConfig(groups=1, tokens=8)
    for config in (replace(CLOSED, prefix=prefix), trace(trace_file, prefix=prefix), replace(SESSIONS, prefix=prefix)):
        workload = build_workload(config)
        assert workload.prefixes is not None and workload.prefixes.shared_tokens(0, 1) == min(8, *workload.prompt_tokens[:2])


def test_prompts_that_are_all_prefix_are_told_in_the_log(caplog):
    build_workload(replace(POISSON, prefix=PrefixConfig(groups=2, tokens=60), prompt=replace(LOGNORMAL, min=61)))
    assert caplog.text == ""
    build_workload(replace(POISSON, prefix=PrefixConfig(groups=2, tokens=200)))
    assert "workload.prefix.tokens=200: " in caplog.text and "workload.prompt.min=201 avoids it" in caplog.text


@pytest.fixture
def session_file(tmp_path):
    path = tmp_path / "sessions.jsonl"
    calls = [{"input_toks": 10 * k + 10, "output_toks": 5, "tool_duration_ns": 10**9} for k in range(3)]
    path.write_text("".join(json.dumps({"arrival_time_ns": at * 10**9, "sub_requests": calls}) + "\n" for at in range(4)))
    return str(path)


def test_sessions_of_a_trace_are_started_cut_and_clipped(session_file):
    workload = build_workload(trace(session_file))
    assert (len(workload), workload.arrival_s[:4].tolist()) == (12, [0.0, 1.0, 2.0, 3.0])
    assert workload.prefixes is not None and workload.prefixes.shared_tokens(0, 4) == 15
    assert build_workload(trace(session_file, rate=2.0)).arrival_s[:4].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert len(build_workload(trace(session_file, start_s=1.0, end_s=3.0))) == 6
    assert len(build_workload(trace(session_file, num_sessions=3, num_requests=8))) == 8
    drawn = build_workload(trace(session_file, session_rate=0.1))
    gaps = np.diff(build_workload(replace(POISSON, rate=0.1)).arrival_s[:4])
    np.testing.assert_allclose(np.diff(drawn.arrival_s[:4]), gaps)
    clipped = build_workload(trace(session_file, prompt=LengthConfig(max=14), output=LengthConfig(max=2)))
    assert clipped.prefixes is not None and set(clipped.prompt_tokens.tolist()) == {10, 14}
    assert [clipped.prefixes.shared_tokens(0, 4), clipped.prefixes.shared_tokens(4, 5)] == [12, 14]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"prefix": PrefixConfig(groups=1, tokens=8)},
            r"workload\.prefix\.groups=1: sessions\.jsonl already records what its requests",
        ),
        ({"rate": 1.0, "session_rate": 2.0}, r"workload\.rate=1 and workload\.session_rate=2 both set the rate; give one"),
        ({"num_sessions": 0}, "workload: sessions.jsonl: 0 sessions asked for; at least 1 is needed"),
        ({"session_rate": -1.0}, "workload: rate=-1; it must be positive"),
    ],
)
def test_wrong_values_for_sessions_of_a_trace_are_one_line_errors(session_file, options, reason):
    with pytest.raises(SimjaxError, match=reason):
        build_workload(trace(session_file, **options))


def test_a_trace_of_single_requests_has_no_sessions(trace_file):
    with pytest.raises(SimjaxError, match=r"workload: session_rate=2 has no effect: trace\.csv has no sessions"):
        build_workload(trace(trace_file, session_rate=2.0))
    with pytest.raises(SimjaxError, match=r"workload: trace\.csv: there are no sessions, only single requests"):
        build_workload(trace(trace_file, num_sessions=2))


def test_automatic_lengths_follow_rate_and_stay_and_not_the_seed():
    output = LengthConfig(dist="fixed", tokens=800)  # 40 s at 50 ms a token
    of = lambda **changes: len(build_workload(replace(POISSON, num_requests=None, output=output, **changes)))
    assert of(rate=1.0) == 4_000 and of(rate=10.0) == of(rate=10.0, seed=5) == 4_800 and of(rate=20.0) == of(rate=1e3) == 6_000
    closed = replace(CLOSED, num_requests=None)
    assert len(build_workload(closed)) == 4_000 and len(build_workload(replace(closed, concurrency=450))) == 5_400
    sessions = replace(SESSIONS, num_sessions=None, output=output, turns=LengthConfig(dist="fixed", tokens=5))  # 5 x 48 s
    built = build_workload(sessions)
    assert built.sessions is not None and len(built.sessions.names) == 480


def test_a_duration_is_not_cut_by_a_number_of_requests():
    workload = build_workload(replace(POISSON, rate=20.0, num_requests=None, duration_s=600.0))
    assert len(workload) == pytest.approx(12_000, rel=0.03) and workload.arrival_s[-1] > 599.0


def test_only_automatic_lengths_can_be_lengthened():
    automatic = replace(POISSON, num_requests=None)
    longer = longest(automatic)
    assert longer is not None and longer.num_requests == 20_000 and longest(longer) is None
    assert longest(POISSON) is None and longest(replace(automatic, duration_s=10.0)) is None
    first = build_workload(automatic)
    np.testing.assert_array_equal(build_workload(longer).arrival_s[: len(first)], first.arrival_s)


def test_a_client_with_a_cap_keeps_the_arrivals_for_its_schedule(trace_file):
    for config in (
        POISSON,
        replace(POISSON, kind="gamma", cv=2.0),
        replace(POISSON, kind="weibull", cv=2.0),
        replace(POISSON, kind="constant"),
        replace(POISSON, kind="pulse", rate=None, pulse_size=5, pulse_interval_s=1.0),
        replace(POISSON, kind="piecewise", rate=None, piecewise=[[0, 2], [60, 8]]),
        trace(trace_file),
    ):
        free, capped = build_workload(config), build_workload(replace(config, max_concurrency=4, ramp_s=2.0))
        np.testing.assert_array_equal(capped.arrival_s, free.arrival_s)
        assert (capped.max_concurrency, capped.ramp_s, capped.concurrency) == (4, 2.0, 0)
        assert (free.max_concurrency, free.waits_for_answers, capped.waits_for_answers) == (0, False, True)


@pytest.mark.parametrize(
    "config, message",
    [
        (replace(POISSON, max_concurrency=0), "max_concurrency=0; it must be at least 1"),
        (replace(POISSON, max_concurrency=4, ramp_s=-1.0), "ramp_s=-1; it must not be negative"),
        (replace(POISSON, ramp_s=1.0), "ramp_s=1 has no effect without workload.max_concurrency"),
        (replace(CLOSED, max_concurrency=4), "max_concurrency=4 has no effect with kind=closed_loop, only with trace or poisson"),
        (replace(SESSIONS, max_concurrency=4), "max_concurrency=4 has no effect with kind=sessions"),
        (replace(POISSON, rate=np.inf, num_requests=None, duration_s=9.0), "rate=inf sends all requests at once: how many"),
        (replace(POISSON, rate=np.inf, num_requests=None), "rate=inf sends all requests at once: how many"),
    ],
)
def test_a_cap_that_cannot_be(config, message):
    with pytest.raises(SimjaxError, match=message):
        build_workload(config)


def test_a_trace_of_sessions_takes_no_cap(tmp_path):
    path = tmp_path / "sessions.csv"
    path.write_text("session,arrival_s,delay_s,prompt_tokens,output_tokens\na,0,,10,2\na,5,1,20,2\n")
    assert build_workload(trace(str(path))).sessions is not None
    with pytest.raises(SimjaxError, match=r"max_concurrency=4 has no effect on .*sessions\.csv, whose calls wait for each other"):
        build_workload(trace(str(path), max_concurrency=4))


@pytest.mark.parametrize("kind, cv", [("poisson", None), ("gamma", 2.0), ("weibull", 2.0), ("constant", None)])
def test_an_infinite_rate_sends_all_requests_at_once(kind, cv):
    pulse = replace(POISSON, kind="pulse", rate=None, num_requests=None, pulse_size=10, pulse_interval_s=1.0, pulse_count=1)
    at_once, alike = build_workload(replace(POISSON, kind=kind, cv=cv, rate=np.inf, num_requests=10)), build_workload(pulse)
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(at_once, name), getattr(alike, name))
    assert (at_once.arrival_s == 0).all()


def test_a_trace_at_an_infinite_rate_arrives_at_once(trace_file):
    assert (build_workload(trace(trace_file, rate=np.inf)).arrival_s == 0).all()
