"""The sweeper plugin is found by every Hydra application in the environment, and must leave the others alone."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

ROOT = Path(__file__).parents[1]
APP = """
import sys
import hydra

@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config):
    heavy = sorted({"jax", "numpy", "pandas", "simjax"} & set(sys.modules))
    print("rate", config.rate, "imported", heavy)

main()
"""


@pytest.fixture
def app(tmp_path: Path):
    """Runs an application that knows nothing of simjax."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("rate: 1\n")

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
        command = [sys.executable, "-W", "error", "app.py", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)

    return call


def test_hydra_finds_the_sweeper() -> None:
    assert "SimjaxSweeper" in {found.__name__ for found in Plugins.instance().discover(Sweeper)}


def test_other_applications_run_and_sweep_as_ever(app) -> None:
    said = app("rate=3")
    assert (said.returncode, said.stdout, said.stderr) == (0, "rate 3 imported []\n", "")
    said = app("-m", "rate=1,2", "hydra.sweep.dir=h")
    assert (said.returncode, said.stderr) == (0, "")
    assert [line for line in said.stdout.splitlines() if "HYDRA" not in line] == ["rate 1 imported []", "rate 2 imported []"]
    assert "Launching 2 jobs locally" in said.stdout, "the basic sweeper and launcher did it"


def test_other_applications_that_choose_it_are_told_in_one_line(app) -> None:
    said = app("-m", "rate=1,2", "hydra/sweeper=simjax")
    assert said.returncode == 1
    assert said.stdout == ""
    assert said.stderr.splitlines()[0] == "hydra/sweeper=simjax sweeps `simjax run` only; choose another one, such as hydra/sweeper=basic"
    assert "Traceback" not in said.stderr
    assert app("hydra/sweeper=simjax").stdout == "rate 1 imported ['simjax']\n".replace("['simjax']", "[]"), "a single run has no sweeper"


def test_the_module_keeps_the_rules_of_hydras_scanner() -> None:
    """It is executed before it is in sys.modules, at every start of every application."""
    folder = ROOT / "hydra_plugins"
    assert not (folder / "__init__.py").exists(), "hydra_plugins is a namespace that all plugins share"
    tree = ast.parse((folder / "simjax_sweeper" / "plugin.py").read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "__future__" not in modules, "dataclasses with postponed annotations fail there"
    top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {str(name).partition(".")[0] for name in top} <= {"collections", "dataclasses", "typing", "hydra", "omegaconf"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


def test_the_wheel_holds_it() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["packages"] == ["simjax", "hydra_plugins"]
