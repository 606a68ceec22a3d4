"""`simjax calibrate` on runs that were simulated with known parameters."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from simjax.latency.profiles.file import load_profile
from simjax.validate.run import MeasuredRun
from tests.calibrate.runs import MODEL, measured, poisson
from tests.cli.conftest import Cli, one_line
from tests.validate.samples import SERVER, request_trace

TRUTH = {"step_s": 6e-4, "sequence_s": 6e-6, "api_pre_s": 6e-3, "api_post_s": 3e-3, "gemm_bandwidth": 0.96}
LIMITS = {"max_num_seqs": 32, "max_num_batched_tokens": 1024, "num_gpu_blocks": 4000}
QUICK = ("fit.starts=2", "fit.max_steps=10", "plots=false")


@pytest.fixture(scope="module")
def known() -> MeasuredRun:
    return measured(poisson(12.0, 80), TRUTH)


@pytest.fixture
def folder(known: MeasuredRun, tmp_path: Path) -> Path:
    us = lambda x: (1e6 * (1000.0 + known.arrival_s + x)).round().astype("int64")
    table = pd.DataFrame(
        {
            "input_tokens": known.prompt_tokens,
            "output_tokens": known.output_tokens,
            "server_input_tokens": known.prompt_tokens,
            "send_time_us": us(0.0),
            "first_chunk_time_us": us(known.ttft_s),
            "last_chunk_time_us": us(known.e2e_s),
            "status": "ok",
        }
    )
    server = SERVER | LIMITS | {"model": MODEL, "vllm_version": "0.19.0"}
    return request_trace(tmp_path / "known", server, table.to_csv(index=False))


def test_from_a_run_to_a_profile_that_reproduces_it(cli: Cli, folder: Path) -> None:
    said = cli("calibrate", f"measured=[{folder}]", "out=fitted", *QUICK)
    assert said.code == 0, said.err
    assert {path.name for path in Path("fitted").iterdir()} == {"profile.yaml", "calibration.json", "config.yaml"}
    report = json.loads(Path("fitted/calibration.json").read_text())
    assert (report["status"], report["problems"]) == ("calibrated", [])
    assert report["loss"]["after"] < 0.01 * report["loss"]["before"]
    fitted = [row["name"] for row in report["parameters"] if row["fitted"]]
    assert len(report["correlation"]) == len(fitted)
    assert all(row["low"] <= row["value"] <= row["high"] for row in report["parameters"])
    (run,) = report["runs"]
    assert (run["name"], run["role"]) == (folder.name, "fitted")
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        before, after = (abs(run[side][metric]["mean"]["error_pct"]) for side in ("before", "after"))
        assert after < 1.0
        assert after < before
    assert folder.name in said.out

    profile = load_profile("fitted/profile.yaml")
    assert profile.calibration is not None
    assert list(profile.calibration.parameters) == fitted
    assert profile.provenance["kind"] == "calibrated to measured runs"
    assert report["seen"]["sequences"][1] <= LIMITS["max_num_seqs"]

    again = cli("validate", str(folder), "profile=fitted/profile.yaml", "out=checked", "plots=false")
    assert again.code == 0, again.err
    assert json.loads(Path("checked/validation.json").read_text()) == run["after"]


def test_validate_tells_where_the_measured_run_left_what_its_profile_has_seen(cli: Cli, folder: Path) -> None:
    from tests.calibrate.calibrated import SEEN, calibrated, saved

    path = saved(Path("narrow.yaml").absolute(), calibrated(seen=replace(SEEN, sequences=(1, 2))))
    said = cli("validate", str(folder), f"profile={path}", "out=checked", "plots=false")
    assert said.code == 0, said.err
    assert "calibrated on 1 to 2 sequences a step, this run went to" in said.err.replace("\n", " ")
    (told,) = (line for line in json.loads(Path("checked/summary.json").read_text())["warnings"] if "sequences a step" in line)
    assert told.endswith("intervals are widened")


def test_a_poor_fit_says_so_and_is_written(cli: Cli, folder: Path) -> None:
    from simjax.calibrate.space import space_of
    from tests.calibrate.runs import profile

    frozen = [f"parameters.{name}.free=false" for name in space_of(profile()).names if name != "gemm_tile"]
    said = cli("calibrate", str(folder), "out=poor", *QUICK, *frozen)
    assert said.code == 1
    assert "the fit to agg_2rps is poor: mean TPOT" in said.err.replace("\n", " ")
    assert said.err.splitlines()[-1].startswith("simjax: error: not calibrated well")
    report = json.loads(Path("poor/calibration.json").read_text())
    assert report["status"] == "poor"
    assert report["problems"]
    assert [row["name"] for row in report["parameters"] if row["fitted"]] == ["gemm_tile"]
    assert load_profile("poor/profile.yaml").calibration is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to fit to: simjax calibrate measured=[DIR,...]"),
        (("nowhere",), "nowhere: no such folder; a measured run is a folder"),
        (("HERE", "fit.method=foo"), "fit.method=foo: there is no such method"),
        (("HERE", "fit.first_fraction=0"), "fit.first_fraction=0.0: it must lie in (0, 1]"),
        (("HERE", "loss.weight=0"), "loss.weight=0.0: it must be positive"),
        (("HERE", "parameters.gemm_bandwith.free=false"), "there is no parameter 'gemm_bandwith'"),
        (("HERE", "parameters.step_s.fre=false"), "parameters.step_s.fre: there is no such key"),
        (("HERE", "parameters.step_s.prior=fast"), "parameters.step_s.prior=fast: it must be a number"),
        (("HERE", "parameters.step_s=3"), "parameters.step_s=3: give a mapping like {free: false}"),
    ],
)
def test_mistakes(cli: Cli, folder: Path, words: tuple[str, ...], message: str) -> None:
    line = one_line(cli("calibrate", *(str(folder) if word == "HERE" else word for word in words)))
    assert line.startswith(message), line


def test_runs_of_two_devices(cli: Cli, folder: Path, tmp_path: Path) -> None:
    from tests.validate.samples import CLUSTER, META, llmservingsim

    instance = CLUSTER["nodes"][0]["instances"][0] | {"hardware": "RTXPRO6000", "model_name": MODEL}
    other = llmservingsim(tmp_path / "other", META | {"model": MODEL}, CLUSTER | {"nodes": [{"instances": [instance]}]})
    line = one_line(cli("calibrate", f"measured=[{folder},{other}]"))
    assert line.startswith("the runs are of several devices (")
    assert line.endswith("); calibrate one device at a time")


def test_an_interrupted_fit_goes_on_and_ends_as_if_nothing_had_been(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(cli, folder, monkeypatch, "lm")


@pytest.mark.slow
def test_an_interrupted_fit_in_reverse_mode_goes_on(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(cli, folder, monkeypatch, "lbfgs")


def interrupted(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A fit that is interrupted, and one that is not, end alike."""
    from simjax.cli.commands import calibrate as command

    words = ("calibrate", str(folder), "fit.starts=2", "fit.max_steps=4", "plots=false", f"fit.method={method}")
    monkeypatch.setattr("simjax.disk.checkpoint.INTERVAL_S", 0.0)
    whole = cli(*words, "out=whole")
    assert not Path("whole", command.STATE).exists()

    class Bar:
        """A progress bar at whose third step somebody presses Ctrl-C."""

        def __enter__(self):
            return self.move

        def __exit__(self, *_: object) -> None:
            pass

        def move(self, completed: int, **_: object) -> None:
            if completed == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "moving_bar", lambda _: Bar())
        said = cli(*words, "out=part")
    assert (said.code, said.err.splitlines()[-1]) == (
        130, "simjax: interrupted; what is done is in part; the same command goes on from there",
    )  # fmt: skip
    assert [path.name for path in Path("part").iterdir()] == [command.STATE]
    kept = Path("part", command.STATE).read_bytes()
    said = cli(*words, "out=part")
    assert said.code == whole.code
    assert f"part/{command.STATE}: the interrupted fit goes on after 2 steps" in said.err
    assert Path("part/profile.yaml").read_bytes() == Path("whole/profile.yaml").read_bytes()
    reports = [json.loads(Path(name, "calibration.json").read_text()) for name in ("whole", "part")]
    for report in reports:
        report["fit"] = {name: value for name, value in report.get("fit", {}).items() if name != "seconds"}
        report.pop("seconds", None)
    assert reports[0] == reports[1]
    assert not Path("part", command.STATE).exists()

    for content, why in ((kept[:-1] + b"x", "damaged"), (kept, "of other measurements, options or versions")):
        Path("part", command.STATE).write_bytes(content)
        said = cli(*words, "fit.seed=1", "fit.max_steps=1", "out=part")
        assert f"part/{command.STATE}: {why}; the fit begins anew" in said.err.replace("\n", " ")
