"""Parts of a sweep as jobs of Hydra's launchers, as experiments/scale_out shows. Needs the extra `scale-out`; skips without it.

`tests/cli/test_multirun.py` has the same with Hydra's own launcher, which is always there.
"""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "experiments" / "scale_out"
SWEEP = ["workload.num_requests=100", "scheduler.max_num_seqs=8,16", "workload.rate=linspace(2,20,3)"]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale_out_compare", FOLDER / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs(package: str) -> None:
    name = f"hydra_plugins.{package}"
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{package} is not installed: pip install 'simjax[scale-out]'")


@pytest.mark.parametrize(
    ("launcher", "package"), [("joblib", "hydra_joblib_launcher"), ("submitit_local", "hydra_submitit_launcher")], ids=lambda x: x
)
def test_parts_join_to_the_sweep_of_one_process(launcher: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = script().compare(launcher, 2, SWEEP, tmp_path)
    assert done.points == 6
    assert done.differing == []
    assert {path.name for path in (tmp_path / "jobs").glob("shard-*")} == {"shard-1-of-2", "shard-2-of-2"}


def test_the_comparison_sees_a_difference() -> None:
    first = pd.DataFrame({"point": [0, 1], "ttft_p99_s": [0.1, float("nan")], "status": ["finished", "invalid"]})
    differing = script().differing
    assert differing(first, first.copy()) == []
    assert differing(first, first.assign(ttft_p99_s=[0.1 + 2e-17, float("nan")])) == ["ttft_p99_s"]
    assert differing(first, first.assign(status=["finished", "error"])) == ["status"]
    assert differing(first, first[:1]) == ["point", "status", "ttft_p99_s"]


def test_the_clusters_settings_are_those_of_the_launcher() -> None:
    needs("hydra_submitit_launcher")
    from dataclasses import fields

    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    settings = yaml.safe_load((FOLDER / "conf" / "hydra" / "launcher" / "cluster.yaml").read_text())
    assert settings.pop("defaults") == ["submitit_slurm"]
    assert set(settings) <= {field.name for field in fields(SlurmQueueConf)}


def test_the_commands_name_what_there_is() -> None:
    """Sweeps that exist, and parts that make a whole."""
    said = (FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", said, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [word for line in lines for word in shlex.split(line, comments=True)]
    sweeps = {word.partition("=")[2] for word in " ".join(words).split() if word.startswith("sweep=")}
    assert sweeps
    assert all((Path(__file__).parents[1] / "conf" / "sweep" / f"{name}.yaml").is_file() for name in sweeps)
    parts = [word.removeprefix("sweep.shard=").split(",") for word in words if re.fullmatch(r"sweep\.shard=[\d/]+(,[\d/]+)+", word)]
    assert [[f"{part}/{len(part_of)}" for part in range(1, len(part_of) + 1)] for part_of in parts] == parts
    assert len(parts) == 2
