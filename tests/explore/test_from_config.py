"""From the `sweep` part of a configuration to points."""

import pytest

import simjax
from simjax.config.compose import compose_config
from simjax.config.explain import group_options
from simjax.config.sweep import SweepConfig
from simjax.errors import SimjaxError
from simjax.explore.axes import axis
from simjax.explore.from_config import base_of, check_base, points_of


def test_sources_are_ordered_from_the_outside_in(tmp_path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("model\nllama-3.1-8b\nqwen3-8b\n")
    sweep = SweepConfig(
        axes={"device": "h100,h200", "workload": {"rate": [1, 2]}}, zip=[{"cluster.instances": [1, 2]}], points=str(file), seeds=[3, 4]
    )
    points, seeds = points_of(sweep, [axis("scheduler.max_num_seqs", "8,9")])
    assert points.keys == (*("model", "cluster.instances", "device", "workload.rate", "scheduler.max_num_seqs", "workload.seed"),)
    assert seeds == (3, 4)
    assert len(points) == 2**6
    assert points.rows[:3] == (
        ("llama-3.1-8b", 1, "h100", 1, 8, 3),
        ("llama-3.1-8b", 1, "h100", 1, 8, 4),
        ("llama-3.1-8b", 1, "h100", 1, 9, 3),
    )
    assert points.rows[-1] == ("qwen3-8b", 2, "h200", 2, 9, 4)


def test_seeds_alone_are_a_sweep() -> None:
    points, seeds = points_of(SweepConfig(seeds=2))
    assert (points.keys, points.rows, seeds) == (("workload.seed",), ((0,), (1,)), (0, 1))


@pytest.mark.parametrize("name", group_options("sweep"))
def test_shipped_sweeps(name: str) -> None:
    """Each has the number of points that its file says, and its first and last point is a configuration."""
    config = simjax.compose([f"sweep={name}"])
    if name == "none":
        assert config.sweep == SweepConfig()
        return
    points, seeds = points_of(config.sweep)
    assert len(points) == {"seats_by_rate": 8 * 16, "sizing": 4 * 6 * 12, "replicates": 8 * 20}[name]
    assert (seeds is not None) == (name == "replicates")
    for point in (0, len(points) - 1):
        simjax.compose(points.overrides(point))


def test_the_base_is_what_is_simulated() -> None:
    said = ["model=a", "++device=b", "out=o", "plots=false", "timeline_interval_s=1", "workload.rate=2", "objective.maximize=[gpus]"]
    said += ["sweep=sizing", "sweep.seeds=3", "++sweep.axes={device: [a]}"]
    assert base_of(said) == ["model=a", "++device=b", "workload.rate=2"]


def test_a_key_is_swept_or_fixed() -> None:
    config = compose_config("run", ["workload=gamma"])
    points, _ = points_of(SweepConfig(axes={"workload.rate": [1, 2]}))
    check_base(["workload=gamma", "workload.num_requests=5"], points, config)
    for fixed in ("workload.rate=3", "++workload.rate=3"):
        with pytest.raises(SimjaxError, match=r"workload\.rate is swept; leave out this value"):
            check_base([fixed], points, config)
