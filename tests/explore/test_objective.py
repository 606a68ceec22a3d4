"""Objectives: what users write, and what they are told about mistakes in it."""

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.explore.pareto.objective import Constraint, check_columns, parse_constraint, parse_objective

COLUMNS = ["point", "device", "status", "reason", "gpus", "ttft_p99_s", "tpot_p99_s", "goodput_per_gpu", "ttft_p99_s_ci95"]


def test_lists_of_strings() -> None:
    found = parse_objective(["goodput_per_gpu", "goodput_per_gpu"], ["ttft_p99_s"], ["ttft_p99_s<=0.5", "gpus < 9", "ttft_p99_s<=0.5"])
    assert found.maximize == ("goodput_per_gpu",)
    assert found.minimize == ("ttft_p99_s",)
    assert found.constraints == (Constraint("ttft_p99_s", "<=", 0.5), Constraint("gpus", "<", 9.0))
    assert found.metrics == ("goodput_per_gpu", "ttft_p99_s")
    assert found.columns == ("goodput_per_gpu", "ttft_p99_s", "gpus")
    assert str(found) == "highest goodput_per_gpu, lowest ttft_p99_s subject to ttft_p99_s<=0.5, gpus<9"


def test_one_name_is_a_list_of_it() -> None:
    assert parse_objective("goodput_per_gpu", [], "gpus>=2") == parse_objective(["goodput_per_gpu"], [], ["gpus>=2"])


@pytest.mark.parametrize(
    ("text", "column", "relation", "value"),
    [
        ("a<=0.5", "a", "<=", 0.5),
        ("  a  >=  1e-3 ", "a", ">=", 0.001),
        ("a<-2", "a", "<", -2.0),
        ("scheduler.max_num_seqs>64", "scheduler.max_num_seqs", ">", 64.0),
    ],
)
def test_constraint(text: str, column: str, relation: str, value: float) -> None:
    assert parse_constraint(text) == Constraint(column, relation, value)
    assert parse_constraint(str(parse_constraint(text))) == parse_constraint(text)


def test_where_constraints_hold() -> None:
    values = np.array([0.4, 0.5, 0.6, np.nan])
    held = {relation: Constraint("a", relation, 0.5).holds(values).tolist() for relation in ("<=", ">=", "<", ">")}
    assert held == {
        "<=": [True, True, False, False],
        ">=": [False, True, True, False],
        "<": [True, False, False, False],
        ">": [False, False, True, False],
    }


@pytest.mark.parametrize(
    ("maximize", "minimize", "subject_to", "said"),
    [
        ([], [], ["a<1"], "nothing to optimise: objective.maximize and objective.minimize are both empty"),
        (["a", "b"], ["c", "b"], [], "objective: 'b' is to be maximised and minimised"),
        (["a"], [], ["a"], "cannot read 'a'; a constraint looks like column<=value"),
        (["a"], [], ["a=1"], "cannot read 'a=1'"),
        (["a"], [], ["a==1"], "cannot read 'a==1'"),
        (["a"], [], ["a<==1"], "cannot read 'a<==1'"),
        (["a"], [], ["<1"], "cannot read '<1'"),
        (["a"], [], ["a b<1"], "cannot read 'a b<1'"),
        (["a"], [], [""], "cannot read ''"),
        (["a"], [], ["a<="], "'a<=': '' is not a finite number"),
        (["a"], [], ["a<=500ms"], "'a<=500ms': '500ms' is not a finite number in the column's unit (0.5, not 500ms)"),
        (["a"], [], ["a<=nan"], "'nan' is not a finite number"),
        (["a"], [], ["a<=inf"], "'inf' is not a finite number"),
        (["a"], [], ["0.1<=a<=0.5"], "'a<=0.5' is not a finite number"),
        (["a"], [], ["0.5>=a"], "'a' is not a finite number"),
    ],
)
def test_mistakes(maximize: list[str], minimize: list[str], subject_to: list[str], said: str) -> None:
    with pytest.raises(SimjaxError) as error:
        parse_objective(maximize, minimize, subject_to)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("maximize", "minimize", "subject_to", "said"),
    [
        (["goodput"], [], [], "objective.maximize: there is no column 'goodput'; did you mean goodput_per_gpu"),
        ([], ["ttft_p99"], [], "objective.minimize: there is no column 'ttft_p99'; did you mean ttft_p99_s"),
        (["gpus"], [], ["tpot_p9_s<1"], "objective.subject_to: there is no column 'tpot_p9_s'; did you mean tpot_p99_s"),
        (["gpus"], ["itl_p99_s"], [], "sweeps do not keep the log of steps that ITL percentiles need; tpot_p99_s does without"),
        (["gpus"], ["itl"], [], "sweeps do not keep the log of steps that ITL percentiles need"),
        (["point"], [], [], "there is no column 'point'"),
        (["status"], [], [], "there is no column 'status'; known: device, goodput_per_gpu, gpus, "),
    ],
)
def test_unknown_columns(maximize: list[str], minimize: list[str], subject_to: list[str], said: str) -> None:
    objective = parse_objective(maximize, minimize, subject_to)
    with pytest.raises(SimjaxError) as error:
        check_columns(objective, COLUMNS)
    assert said in str(error.value)
    assert "_ci95" not in str(error.value)


def test_known_columns() -> None:
    check_columns(parse_objective(["goodput_per_gpu"], ["ttft_p99_s_ci95"], ["gpus<9"]), COLUMNS)
