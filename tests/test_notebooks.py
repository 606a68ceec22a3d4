"""The notebooks are committed without outputs, they run, and what their text says is what their numbers say.

Their code cells are executed here, in this process: that needs no Jupyter (some thirty packages), turns warnings into errors as in all
tests, and leaves the variables to look at. Of Jupyter's own only `IPython.display.Image` is used, which `Shown` stands in for.
"""

import ast
import json
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import jax
import pytest

from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # the fixture

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PNG = b"\x89PNG\r\n\x1a\n"


def cells_of(path: Path, kind: str) -> dict[str, str]:
    """The cells of a kind, by their id."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == kind}


class Shown:
    """What a notebook shows, instead of showing it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import matplotlib.pyplot as plt

        self.images: list[Path] = []
        self.figures = 0
        display = types.ModuleType("IPython.display")
        display.Image = self._image  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        plt.switch_backend("agg")
        monkeypatch.setattr(plt, "show", self._show)

    def _image(self, path: Path, width: int | None = None) -> None:
        assert Path(path).read_bytes().startswith(PNG)
        self.images.append(Path(path))

    def _show(self) -> None:
        import matplotlib.pyplot as plt

        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
            self.figures += 1
        plt.close("all")


def execute(path: Path) -> dict[str, Any]:
    """Run the code cells one after the other; returns the variables."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for name, source in cells_of(path, "code").items():
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, cell {name}", "exec"), names)
        if last is not None:  # Jupyter shows its value
            value = eval(compile(ast.Expression(last.value), f"{path.name}, cell {name}", "eval"), names)  # type: ignore[attr-defined]
            getattr(value, "_repr_html_", value.__repr__)()
    return names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    book = json.loads(text)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book["metadata"]) <= {"kernelspec", "language_info"}
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in book["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert text == json.dumps(book, indent=1, ensure_ascii=False) + "\n", "another layout than the one Jupyter writes"


@pytest.mark.slow
def test_pareto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All of its cells, then what its text concludes."""
    monkeypatch.chdir(tmp_path)
    shown = Shown(monkeypatch)
    found = execute(FOLDER / "pareto.ipynb")
    said = capsys.readouterr().out
    assert [path.name for path in shown.images] == ["pareto.png", "timeline.png"]
    assert shown.figures == 1
    table, front, best = found["table"], found["front"], found["best"]
    assert len(table) == 288
    assert len(found["plan"].groups) == 3
    assert set(table["status"]) == {"finished"}

    # the front
    assert front.rows()["device"].value_counts().to_dict() == {"h200": 29, "h100": 8}
    assert list(front.left_out.violated.values()) == [89, 112, 43] and front.left_out.total == 117
    knee = table.iloc[front.knee]
    assert (knee["gpus"], knee["rate"], round(knee["ttft_p99_s"], 2)) == (8, 12, 0.17)
    half = front.rows().set_index("point").query("gpus == 4 and rate == 12")
    assert round(half["ttft_p99_s"].min(), 2) == 0.34
    assert half["goodput_per_gpu"].between(2.0 * knee["goodput_per_gpu"], 2.1 * knee["goodput_per_gpu"]).all()

    # the smallest clusters, one replica more, seats
    assert best["gpus"].to_dict() == {(kind, rate): 2 if rate < 6 else 4 for kind in ("h100", "h200") for rate in (2, 4, 6, 8, 10, 12)}
    assert (best.loc["h200"]["ttft_p99_s"] < best.loc["h100"]["ttft_p99_s"]).all()
    assert (best.loc["h100"]["tensor_parallel_size"] > 1).all()
    capacity = found["capacity"].loc[("h100", 2)]
    assert capacity.to_dict() == {1: 4, 2: 12, 4: 12}
    lone = table.query("device == 'h100' and tensor_parallel_size == 1 and instances == 1")
    assert (lone["kv_num_blocks"] * 16).between(32_000, 36_000).all()
    assert (lone["preemptions"] > 0).all()
    four = found["four"].set_index(["instances", "rate"])[["ttft_p99_s", "tpot_p99_s"]]
    assert (four.loc[1].loc[:10] < four.loc[2].loc[:10]).all(axis=None)
    assert (four.loc[1].loc[12] > four.loc[2].loc[12]).all() and four.loc[1].loc[12, "tpot_p99_s"] > 0.05 > four.loc[2].loc[
        12, "tpot_p99_s"
    ]
    queued = found["one_engine"].set_index(["max_num_seqs", "rate"])["ttft_p99_s"] > 1.0
    assert [place for place, late in queued.items() if late] == [(128, 8), (128, 10), (128, 12), (256, 12)]
    keeps = table.assign(keeps=table["point"].isin(found["kept"]["point"]))
    by_seats = keeps.pivot_table(index=["device", "tensor_parallel_size", "instances", "rate"], columns="max_num_seqs", values="keeps")
    assert (by_seats[512] >= by_seats[128]).all()
    assert (by_seats[512] >= by_seats[256]).all()

    # seeds
    assert found["designs"]["kept"].tolist() == [0.8, 0.9, 1.0, 1.0, 1.0, 0.0]
    assert not found["both"][found["replicates"]["seed"] == 0][:2].any()
    numbers = re.findall(r"requests/s: two engines instead of one: \w+ (\S+) ± (\S+) ms", said)
    differences = [(float(mean), float(half)) for mean, half in numbers]
    assert [round(mean) for mean, _ in differences] == [28, 3, -457, -18]
    assert [abs(mean) > half for mean, half in differences] == [True, True, False, True]

    # the single run
    assert found["here"] == found["there"]
    chosen = found["chosen"]
    assert (chosen["instances"], chosen["tensor_parallel_size"]) == (2, 2)
    assert 0.6 < chosen["kv_peak_used_fraction"] < 0.75


@pytest.mark.slow
def test_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All of its cells without measured data, then what its text concludes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMJAX_DATA", raising=False)
    shown = Shown(monkeypatch)
    found = execute(FOLDER / "calibration.ipynb")
    assert [path.name for path in shown.images] == ["calibration.png", "posterior.png", "sensitivity.png"]

    # the fit
    assert found["done"].problems == ()
    errors = found["errors"].xs("before", level="profile"), found["errors"].xs("after", level="profile")
    means = ["TTFT mean", "TPOT mean", "E2E mean"]
    assert (errors[0][means] < -7.0).all(axis=None)
    assert (errors[1][means].abs() < 2.0).all(axis=None)

    # its parameters
    parameters = found["parameters"]
    assert len(parameters) == 13
    assert parameters["truth"].notna().all()
    assert set(parameters["constrained"].nlargest(2).index) == {"api_pre_s", "gemm_bandwidth"}
    assert (parameters.loc[["step_s", "layer_s"], "constrained"] < 0.1).all()
    assert (~parameters["covered"]).sum() == 3
    assert parameters.loc["gemm_bandwidth", "high"] < parameters.loc["gemm_bandwidth", "truth"]

    # the prediction
    prediction = found["prediction"]
    assert ((prediction["calibrated"] / prediction["truth"] - 1.0).abs() < 0.03).all()
    assert (prediction["shipped"] / prediction["truth"])["tpot_s mean"] == pytest.approx(0.85, abs=0.02)
    for row in prediction.itertuples():
        low, high = found["predicted_intervals"][row.Index.split()[0]][row.Index.split()[1]]
        assert low < row.truth < high
    assert "not calibrated, so intervals are those of its priors" in capsys.readouterr().out

    # what helps
    top = found["top"]
    assert top["tpot_mean_s"].abs().idxmax() == "memory_bandwidth"
    assert top.loc["memory_bandwidth", "tpot_mean_s"] == pytest.approx(-0.96, abs=0.05)
    assert top["ttft_mean_s"].abs().idxmax() == "peak_flops"


@pytest.mark.slow
def test_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its cells: the descent ends lower than the grid, for the requests that both chose for and for others."""
    monkeypatch.chdir(tmp_path)
    shown = Shown(monkeypatch)
    before = jax.config.jax_enable_x64
    try:
        found = execute(FOLDER / "library.ipynb")
    finally:
        jax.config.update("jax_enable_x64", before)
    assert shown.figures == 1
    assert len(found["NAMES"]) == 8 and all(float(x) > 0.0 for x in found["x"])
    assert (len(found["points"]), found["simulations"]) == (6_561, 102)
    assert found["by_gradient"] < found["by_grid"] < found["path"][0][0]
    mean = {name: values.mean() for name, values in found["held_out"].items()}
    assert mean["gradient"] < mean["grid"] < mean["none"]


def test_calibration_from_the_command_line() -> None:
    """The options of the commands that its last cell shows exist."""
    from simjax.config.compose import compose_config, typed

    (block,) = re.findall(r"```sh\n(.*?)```", cells_of(FOLDER / "calibration.ipynb", "markdown")["end"], flags=re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [words[:2] for words in commands] == [["simjax", "calibrate"], ["simjax", "run"], ["simjax", "sensitivity"]]
    for _, command, *options in commands:
        typed(compose_config(command, options))


def test_pareto_from_the_command_line(cli: Cli) -> None:
    """The command that its last cell shows sweeps the same points."""
    import simjax

    source = cells_of(FOLDER / "pareto.ipynb", "code")["plan"]
    names: dict[str, Any] = {"simjax": simjax}
    exec(source, names)
    (block,) = re.findall(r"```sh\n(.*?)```", cells_of(FOLDER / "pareto.ipynb", "markdown")["end"], flags=re.DOTALL)
    command = shlex.split(block.replace("\\\n", " ").splitlines()[0])
    assert command[0] == "simjax"
    said = cli(*command[1:], "sweep.dry_run=true")
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == names["plan"].describe().splitlines()[0]
    assert said.out.splitlines()[1:4] == names["plan"].describe().splitlines()[1:4]
