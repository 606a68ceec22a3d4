"""Axes: what users write becomes values, and what cannot be a grid is refused in one line."""

from typing import Any

import numpy as np
import pytest

from simjax.config.compose import compose_config
from simjax.errors import SimjaxError
from simjax.explore.axes import Axis, axis, geomspace, linspace, logspace, parse_values, zipped
from simjax.explore.keys import check_key, refuse_interpolated, takes_integers

RATE, SEATS = "workload.rate", "scheduler.max_num_seqs"


@pytest.mark.parametrize(
    ("key", "given", "values"),
    [
        (RATE, "1,2,3", (1, 2, 3)),
        (RATE, "1.5", (1.5,)),
        (RATE, "choice(1, 2.5)", (1, 2.5)),
        (RATE, "range(1,4)", (1, 2, 3)),
        (RATE, "range(3)", (0, 1, 2)),
        (RATE, "range(0,100,40)", (0, 40, 80)),
        (RATE, "range(3,0,-1)", (3, 2, 1)),
        (RATE, "sort(3,1,2)", (1, 2, 3)),
        (RATE, "tag(x,choice(1,2))", (1, 2)),
        (RATE, "float(1,2)", (1.0, 2.0)),
        (RATE, "choice('linspace(1,3,3)')", (1.0, 2.0, 3.0)),
        (RATE, " linspace ( 1 , 3 , 3 ) ", (1.0, 2.0, 3.0)),
        (RATE, "linspace(5,1,2)", (5.0, 1.0)),
        (RATE, "linspace(7,9,1)", (7.0,)),
        (RATE, "geomspace(-1,-4,3)", (-1.0, -2.0, -4.0)),
        (RATE, np.array([1.0, 2.0]), (1.0, 2.0)),
        (RATE, [np.float64(0.5), np.int32(2)], (0.5, 2)),
        (RATE, range(2, 4), (2, 3)),
        (RATE, 4.0, (4.0,)),
        ("model", "llama-3.1-8b,qwen3-32b", ("llama-3.1-8b", "qwen3-32b")),
        ("model", "'a,b',c d", ("a,b", "c d")),
        ("model", ["1,2", "range(3)"], ("1,2", "range(3)")),
        ("profile.file", "a/b.yaml,c.yaml", ("a/b.yaml", "c.yaml")),
        ("scheduler", "vllm,vllm_small", ("vllm", "vllm_small")),
        ("scheduler.max_model_len", "null,4096", (None, 4096)),
        ("scheduler.enable_chunked_prefill", "true,false", (True, False)),
        ("cluster.groups", "[{instances: 2}],[{device: h100}]", ([{"instances": 2}], [{"device": "h100"}])),
        (SEATS, "geomspace(1,64,7)", (1, 2, 4, 8, 16, 32, 64)),
        (SEATS, "linspace(10,30,3)", (10, 20, 30)),
        (SEATS, "logspace(0,3,4)", (1, 10, 100, 1000)),
        (SEATS, [64.0, 128], (64, 128)),
        ("workload.prompt.max", "linspace(10,20,2)", (10, 20)),
    ],
)
def test_values(key: str, given: Any, values: tuple[Any, ...]) -> None:
    found = parse_values(key, given)
    assert found == values
    assert [type(x) for x in found] == [type(x) for x in values], "an integer became a float, or a numpy scalar stayed"


def test_spaces_are_numpys_to_the_last_bit() -> None:
    assert parse_values(RATE, "linspace(0.1,20,37)") == linspace(0.1, 20, 37) == tuple(np.linspace(0.1, 20, 37).tolist())
    assert parse_values(RATE, "logspace(-1,2,10)") == logspace(-1, 2, 10) == tuple(np.logspace(-1, 2, 10).tolist())
    assert parse_values(RATE, "geomspace(1e-5,64,7)") == geomspace(1e-5, 64, 7) == tuple(np.geomspace(1e-5, 64, 7).tolist())
    assert {type(value) for value in linspace(0, 1, 5)} == {float}


@pytest.mark.parametrize(
    ("key", "given", "line"),
    [
        (
            RATE,
            "range(0.1,1,0.1)",
            "workload.rate=range(0.1,1,0.1): range is for integers (Hydra's versions disagree about floats); use lin",
        ),
        (RATE, "range(1,4,0.5)", "use linspace(1,20,40)"),
        (RATE, "interval(1,2)", "workload.rate=interval(1,2): an interval is continuous and needs a search; give points of it"),
        (RATE, "tag(t,interval(1,2))", "an interval is continuous"),
        (RATE, "sort(interval(1,2))", "cannot read 'workload.rate=sort(interval(1,2))'"),
        (RATE, "shuffle(1,2,3)", "shuffle gives other points each time"),
        (RATE, "shuffle(range(9))", "shuffle gives other points each time"),
        ("model", "glob(*)", "model=glob(*): glob is not supported; list the choices: a,b,c"),
        (RATE, "linspce(1,2,3)", "cannot read 'workload.rate=linspce(1,2,3)' (Unknown function 'linspce')"),
        (RATE, "choice()", "(empty choice is not legal)"),
        (RATE, "1,range(3)", "RangeSweep: a list of values cannot hold a range"),
        (RATE, "1,[2", "cannot read 'workload.rate=1,[2'"),
        (RATE, "", "workload.rate: no values to sweep over"),
        (RATE, None, "workload.rate: no values to sweep over"),
        (RATE, [], "workload.rate: 0 values to sweep over; at least 1"),
        (RATE, range(10**9), "1,000,000,000 values"),
        (RATE, "range(1,1)", "0 values to sweep over"),
        (RATE, "range(1000000000)", "values to sweep over; at least 1 and at most 1,000,000"),
        (RATE, "range(1,9,0)", "workload.rate=range(1,9,0): the step of a range must not be 0"),
        (RATE, {"a": 1}, "got a mapping"),
        (RATE, np.ones((2, 2)), "got an array of 2 dimensions"),
        (RATE, [object()], "a value is a number, true or false, text, null, or a list or mapping of them, not object"),
        (
            RATE,
            "linspace(1,20)",
            "workload.rate=linspace(1,20): linspace takes two numbers and the number of values, like linspace(1,20,40)",
        ),
        (RATE, "linspace(1,20,4.5)", "takes two numbers and the number of values"),
        (RATE, "linspace(1,20,3,4)", "takes two numbers and the number of values"),
        (RATE, "linspace(a,20,3)", "takes two numbers and the number of values"),
        (RATE, "linspace(1,20,0)", "workload.rate=linspace(1,20,0): linspace of 0 values: it must be at least 1"),
        (RATE, "linspace(1,20,-3)", "linspace of -3 values"),
        (RATE, "linspace(1,2,10000000)", "at most 1,000,000"),
        (RATE, "linspace(1,inf,3)", "linspace from 1.0 to inf: both ends must be finite"),
        (RATE, "logspace(nan,1,3)", "both ends must be finite"),
        (RATE, "logspace(1,400,3)", "values beyond the range of floating-point numbers"),
        (RATE, "logspace(-400,1,3)", "values beyond the range of floating-point numbers"),
        (RATE, "geomspace(0,4,3)", "geomspace from 0.0 to 4.0: both ends must be positive, or both negative"),
        (RATE, "geomspace(-1,4,3)", "both ends must be positive, or both negative"),
        (RATE, "1,2,1", "workload.rate: 1 is given twice"),
        (RATE, "4,4.0", "workload.rate: 4.0 is given twice"),
        (RATE, "linspace(3,3,2)", "workload.rate: 3.0 is given twice"),
        (SEATS, "64,64.0", "scheduler.max_num_seqs: 64 is given twice"),
        ("cluster.groups", "[{instances: 2}],[{instances:2}]", "cluster.groups: [{instances:2}] is given twice"),
        (
            SEATS,
            "linspace(1,20,40)",
            "scheduler.max_num_seqs=1.4871794871794872: it takes integers; choose bounds and a count that give whole",
        ),
        (SEATS, [float("inf")], "scheduler.max_num_seqs=inf: it takes integers"),
        (RATE, "${workload.num_requests},3", "an interpolation cannot be a swept value"),
    ],
)
def test_refused(key: str, given: Any, line: str) -> None:
    with pytest.raises(SimjaxError) as error:
        parse_values(key, given)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("out", "out cannot be swept: a sweep has one directory of results"),
        ("plots", "plots cannot be swept"),
        ("sweep.width", "sweep.width cannot be swept: it is an option of the sweep itself"),
        ("objective.maximize", "objective.maximize cannot be swept"),
        ("hydra.job.name", "hydra.job.name cannot be swept: Hydra's own settings are the same for all points"),
        ("hydra/launcher", "hydra/launcher cannot be swept"),
        ("scheduler.max_num_seq", "unknown option 'scheduler.max_num_seq'; did you mean max_num_seqs"),
        ("modle", "unknown option 'modle'; did you mean model"),
        ("workload.prompt", "unknown option 'workload.prompt'"),
        ("slo", "'slo' is a group of options here; set its keys one by one: slo.ttft_s,"),
        ("model.name", "unknown option 'model.name'"),
        ("+model", "'+model' cannot be swept: a key looks like scheduler.max_num_seqs"),
        ("scheduler@x", "'scheduler@x' cannot be swept"),
        ("../scheduler", "'../scheduler' cannot be swept"),
        ("", "'' cannot be swept"),
    ],
)
def test_keys_that_cannot_be_swept(key: str, line: str) -> None:
    with pytest.raises(SimjaxError) as error:
        check_key(key)
    assert line in str(error.value)


def test_kinds_of_keys() -> None:
    for key in ("model", "workload", "scheduler", SEATS, "workload.prompt.mean", "cluster.groups", "slo.ttft_s", "sim.leap"):
        check_key(key)
    assert [takes_integers(key) for key in (SEATS, "workload.seed", "cluster.instances", RATE, "model", "workload")] == [True] * 3 + [
        False
    ] * 3


def test_short_names_of_keys() -> None:
    assert axis("profile", "a.yaml").keys == ("profile.file",)
    assert axis("++model", "a,b") == Axis(("model",), (("a",), ("b",)))


def test_zipped_keys_step_together_and_may_repeat_a_value() -> None:
    both = zipped({"device": ["h100", "h200", "h200"], "cluster.tensor_parallel_size": "geomspace(1,4,3)"})
    assert both == Axis(("device", "cluster.tensor_parallel_size"), (("h100", 1), ("h200", 2), ("h200", 4)))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"device": ["h100", "h200"], RATE: "1,2,3"}, "zipped keys need the same number of values; device has 2, workload.rate has 3"),
        ({"device": ["h100", "h100"], RATE: [1, 1.0]}, "device and workload.rate: h100, 1.0 is given twice"),
        ({}, "an axis needs a key"),
    ],
)
def test_zipped_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(SimjaxError, match=line.replace("(", r"\(")):
        zipped(given)


INTERPOLATED = ["scheduler.max_num_batched_tokens=${workload.num_requests}", "workload.prompt.max=${.min}"]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["model", "workload.num_requests"], "workload.num_requests cannot be swept: scheduler.max_num_batched_tokens refers to it"),
        (["workload"], r"workload cannot be swept: scheduler.max_num_batched_tokens refers to it \(\$\{workload.num_requests\}\)"),
        (["workload.prompt.min"], "workload.prompt.min cannot be swept: workload.prompt.max refers to it"),
    ],
)
def test_keys_that_an_interpolation_reads(keys: list[str], line: str) -> None:
    with pytest.raises(SimjaxError, match=line):
        refuse_interpolated(keys, compose_config("run", INTERPOLATED))


def test_keys_that_no_interpolation_reads() -> None:
    config = compose_config("run", INTERPOLATED)
    refuse_interpolated(["workload.rate", "workload.prompt.mean", "scheduler.max_num_batched_tokens"], config)
    refuse_interpolated(["workload.num_requests", "scheduler.max_num_batched_tokens"], config)  # both are written out


def test_an_axis_needs_a_value_a_key() -> None:
    with pytest.raises(SimjaxError, match="needs 2 values"):
        Axis(("a", "b"), ((1, 2), (3,)))
