"""The groups of presets, and what conf/README.md says of them."""

import re
import shlex
from typing import Any

import pytest

import simjax
from simjax.cli.help.choices import presets
from simjax.cluster.configured.cluster import build_cluster
from simjax.cluster.spec import ClusterSpec
from simjax.config.cluster import ClusterConfig
from simjax.config.compose import GROUPS, SCHEMAS
from simjax.config.explain import group_options
from simjax.config.schema import RunConfig
from simjax.disk.paths import CONF
from simjax.errors import SimjaxError
from simjax.explore.options import Options
from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # the fixture

README = (CONF / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def built(config: RunConfig) -> ClusterSpec:
    return build_cluster(config.model, config.device, config.cluster, config.scheduler)


def test_one_instance_is_the_default() -> None:
    assert simjax.compose().cluster == simjax.compose(["cluster=one"]).cluster == ClusterConfig()


def test_keys_of_a_cluster_work_with_and_without_a_preset() -> None:
    alone = simjax.compose(["cluster.instances=4", "cluster.router=least_loaded"])
    assert simjax.compose(["cluster=routed"]) == alone
    assert simjax.compose(["cluster.instances=2", "cluster=routed"]).cluster.instances == 2


def test_instances_of_several_kinds() -> None:
    cluster = built(simjax.compose(["cluster=heterogeneous", "scheduler.max_num_seqs=100"]))
    assert [x.device.name for x in cluster.instances] == ["h100"] * 2 + ["l40s"] * 4
    assert [x.limits.max_num_seqs for x in cluster.instances] == [100] * 2 + [64] * 4
    with pytest.raises(SimjaxError, match=r"cluster\.instances=3 has no effect with cluster\.groups"):
        simjax.compose(["cluster=heterogeneous", "cluster.instances=3"])


def test_a_cluster_is_an_axis_of_a_sweep() -> None:
    """Each point composes the preset, then sets its own values; nothing of one point is left in the next."""
    options = Options(["workload.num_requests=20"], ["cluster", "cluster.router", "workload.rate"])

    def point(**values: Any) -> tuple[int, str]:
        cluster = built(options.config({key.replace("_", ".", 1): value for key, value in values.items()}))
        return len(cluster.instances), cluster.router

    assert point(cluster="one") == (1, "round_robin")
    assert point(cluster="routed", cluster_router="random") == (4, "random")
    assert point(cluster="routed", workload_rate=2.0) == (4, "least_loaded")
    assert point(cluster="heterogeneous") == (6, "least_loaded")
    assert point(cluster="one", cluster_router="random") == (1, "random")


def test_readme_lists_the_presets_of_every_group() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README, flags=re.MULTILINE))
    assert set(table) == set(GROUPS)
    for group, row in table.items():
        names, commands = row.split(" | ")
        assert sorted(re.findall(r"`([\w.-]+)`", names)) == group_options(group)
        assert re.findall(r"`(\w+)`", commands) == [command for command in SCHEMAS if group in presets(command)]
        (default,) = re.findall(r"`([\w.-]+)` \(default\)", names)
        assert default == presets("run")[group]


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_commands_of_the_readme_compose(cli: Cli, line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "simjax"
    said = cli(*words, *([] if "--cfg" in words else ["--cfg"]))
    assert said.code == 0, said.err
    if "workload.rate=9" in words:
        assert "\n  rate: 9.0\n" in said.out


def test_a_preset_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks("yaml")
    path = CONF / "workload" / "mine.yaml"
    assert not path.exists()
    try:
        path.write_text(text)
        config = simjax.compose(["workload=mine"]).workload
        assert (config.rate, config.prompt.mean, config.prompt.cv, config.kind) == (40.0, 120.0, 0.9, "poisson")
        path.write_text(text + "rat: 3\n")
        with pytest.raises(SimjaxError, match=r"'workload\.rat'"):
            simjax.compose(["workload=mine"])
    finally:
        path.unlink()


def test_python_of_the_readme() -> None:
    (block,) = blocks("python")
    exec(compile(block, "conf/README.md", "exec"), {})
