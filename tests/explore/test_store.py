"""The directory of a sweep: what stands in it after every way to stop, and who may write there."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from simjax.errors import SimjaxError
from simjax.explore.pareto.replicates import aggregate
from simjax.explore.points import Points, read_points, sha256
from simjax.explore.store import manifest, records
from simjax.explore.store.lock import DirectoryLock
from simjax.explore.store.results_file import DONE
from simjax.explore.store.store import LOCK, SweepStore
from simjax.explore.store.table import read_designs, read_results
from simjax.metrics.rows import METRICS, WHOLE_METRICS

KEYS = ("model", "scheduler.max_num_seqs", "workload.rate")
BASE = ["device=h100", "cluster.instances=2"]


def points_of(count: int) -> Points:
    names = ("llama-3.1-8b", "a 'quoted, b", None)
    return Points(KEYS, tuple((names[i % 3], (32, "x")[i % 2], 0.1 * (i + 1)) for i in range(count)))


def row_of(point: int, status: str = "finished", **given: object) -> dict:
    """A row whose numbers tell the point, with floats of many digits."""
    if status in ("invalid", "error"):
        return {"point": point, "status": status, "reason": 'it does not fit: "80 GB",\n  not more', **given}
    metrics = {name: point + 7 if name in WHOLE_METRICS else (point + 1) / 3.0 for name in METRICS}
    return {"point": point, "status": status, **metrics, "tpot_mean_s": None, **given}


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_new_sweep_says_what_was_asked(tmp_path):
    points = points_of(4)
    with SweepStore.create(tmp_path / "a" / "b", points, base=BASE, objective={"maximize": ["goodput_per_gpu"]}) as store:
        info = json.loads((store.directory / "sweep.json").read_text())
        assert json.loads((store.directory / LOCK).read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert info == store.info
    assert {name: info[name] for name in ("version", "command", "base", "points", "seeds")} == {
        "version": 1, "command": "run", "base": BASE, "points": 4, "seeds": None,
    }  # fmt: skip
    assert info["keys"] == list(KEYS) and info["points_sha256"] == sha256(points)
    unset = {"minimize": [], "subject_to": [], "by": [], "tie_break": [], "color": []}
    assert info["objective"] == {"maximize": ["goodput_per_gpu"]} | unset
    assert {"simjax", "jax", "python", "created"} < set(info)
    assert read_points(store.directory / "points.csv") == points
    assert sorted(path.name for path in store.directory.iterdir()) == ["points.csv", "sweep.json"]


def test_rows_come_back_exactly_and_sorted(tmp_path):
    points = points_of(6)
    with SweepStore.create(tmp_path, points, base=BASE) as store:
        store.append([row_of(4), row_of(1, "invalid")])
        store.append([])
        store.append([row_of(0, "tick_limit"), row_of(5, "stalled")])
        assert [line["point"] for line in lines_of(tmp_path / "results.csv")] == ["4", "1", "0", "5"]
        found = store.finish()
    lines = lines_of(tmp_path / "results.csv")
    assert list(lines[0]) == ["point", *KEYS, "status", "reason", *METRICS, "crc32"]
    assert [line["point"] for line in lines] == ["0", "1", "4", "5"]
    overrides = {f"{key}={lines[2][key]}" for key in KEYS}
    assert overrides == set(points.overrides(4))
    assert lines[1]["reason"] == 'it does not fit: "80 GB", not more' and {lines[1][name] for name in METRICS} == {""}
    assert found is not None
    pd.testing.assert_frame_equal(found, read_results(tmp_path))
    for line in found.to_dict("records"):
        if line["status"] != "invalid":
            expected = row_of(line["point"])
            assert {name: line[name] for name in METRICS if name != "tpot_mean_s"} == {
                name: expected[name] for name in METRICS if name != "tpot_mean_s"
            }
            assert pd.isna(line["tpot_mean_s"])


def test_errors_are_tried_again_and_the_last_row_counts(tmp_path):
    with SweepStore.create(tmp_path, points_of(8), base=BASE) as store:
        store.append([row_of(i, status) for i, status in enumerate([*sorted(DONE), "error", "error"])])
        assert store.done() == {0, 1, 2, 3}
        store.append([row_of(5, "finished", ttft_p99_s=0.25), row_of(0, "finished")])
        assert store.done() == {0, 1, 2, 3, 5}
        assert lines_of(tmp_path / "results.csv")[5]["status"] == "error"
        store.finish()
        assert store.done() == {0, 1, 2, 3, 5}
        store.append([row_of(7)])  # rows may follow
    lines = lines_of(tmp_path / "results.csv")
    assert [(line["point"], line["status"]) for line in lines[-3:]] == [("4", "error"), ("5", "finished"), ("7", "finished")]
    assert lines[5]["ttft_p99_s"] == "0.25"


def test_a_number_that_is_none_is_an_error_of_its_point(tmp_path):
    with SweepStore.create(tmp_path, points_of(3), base=BASE) as store:
        store.append([row_of(1, ttft_p99_s=float("nan")), row_of(2)])
        assert store.done() == {2}
    line = lines_of(tmp_path / "results.csv")[0]
    assert (line["status"], line["reason"], line["duration_s"]) == ("error", "ttft_p99_s: not a number (NaN)", "")


@pytest.mark.parametrize("wrong", [{"point": 3}, {"point": -1}, {"status": "done"}, {"ttft_p98_s": 1.0}])
def test_a_row_of_another_kind_is_refused_before_anything_is_written(tmp_path, wrong):
    with SweepStore.create(tmp_path, points_of(3), base=BASE) as store, pytest.raises(ValueError, match="not a row of this sweep"):
        store.append([row_of(0), row_of(1) | wrong])
    assert not (tmp_path / "results.csv").exists()


def test_nothing_is_done_yet(tmp_path):
    with SweepStore.create(tmp_path, points_of(3), base=BASE) as store:
        assert store.done() == set() and store.finish() is None
    resumed, warnings = SweepStore.resume(tmp_path, points_of(3), BASE)
    assert resumed.done() == set() and warnings == []
    resumed.close()


def test_a_line_that_was_cut_is_removed_wherever_it_was_cut(tmp_path):
    points = points_of(3)
    with SweepStore.create(tmp_path, points, base=BASE) as store:
        store.append([row_of(0), row_of(1, "invalid")])
        store.append([row_of(2)])
    content = (tmp_path / "results.csv").read_bytes()
    header, first, second, third = content.splitlines(keepends=True)
    for cut in (*range(len(header) + len(first), len(content), 7), 5, len(content) - 1):
        (tmp_path / "results.csv").write_bytes(content[:cut])
        store, _ = SweepStore.resume(tmp_path, points, list(reversed(BASE)))
        with store:
            done = store.done()
            assert done == ({0, 1} if cut >= len(content) - len(third) else {0} if cut > len(header) else set())
            left = (tmp_path / "results.csv").read_bytes()
            assert left == b"".join([header, first, second][: 1 + len(done)] if done else [])
            store.append([row_of(i) if i != 1 else row_of(i, "invalid") for i in range(3) if i not in done])
        assert (tmp_path / "results.csv").read_bytes() == content


def test_a_line_break_inside_quotes_ends_no_row():
    """Tables that were edited elsewhere may hold one; what is cut inside the quotes is no row yet."""
    table = b'point,key\n0,"a\nb"\n1,c\n'
    assert list(records.records(table)) == [b"point,key\n", b'0,"a\nb"\n', b"1,c\n"]
    assert list(records.records(table[: table.index(b"b") + 1])) == [b"point,key\n"]


class _FullDisk:
    """Stands for `os.fsync`: fails as a full disk does, or as Ctrl-C at that moment."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, file: int) -> None:
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_a_chunk_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch, error):
    with SweepStore.create(tmp_path, points_of(3), base=BASE) as store:
        store.append([row_of(0)])
        before = (tmp_path / "results.csv").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("simjax.disk.files.os.fsync", _FullDisk(error))
            with pytest.raises(SimjaxError if isinstance(error, OSError) else KeyboardInterrupt) as told:
                store.append([row_of(1), row_of(2)])
        assert isinstance(error, KeyboardInterrupt) or "results.csv: cannot write it: No space left on device" in str(told.value)
        assert (tmp_path / "results.csv").read_bytes() == before
        store.append([row_of(1)])
        assert store.done() == {0, 1}


def test_readers_never_see_half_a_row(tmp_path):
    """While rows are appended and the file is rewritten, every read finds whole rows, and no fewer than the read before."""
    points, seen, stop = points_of(400), [0], threading.Event()

    def read() -> None:
        while not stop.is_set():
            if (tmp_path / "results.csv").exists():
                seen.append(len(read_results(tmp_path)))

    with SweepStore.create(tmp_path, points, base=BASE) as store:
        store.append([row_of(0)])
        reader = threading.Thread(target=read)
        reader.start()
        for start in range(1, 400, 21):
            store.append([row_of(i) for i in range(start, min(start + 21, 400))])
            store.finish()
        stop.set()
        reader.join()
    assert len(seen) > 2 and seen == sorted(seen)
    assert len(read_results(tmp_path)) == 400


WRITER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from tests.explore.test_store import BASE, SweepStore, points_of, row_of
store = SweepStore.create(sys.argv[1], points_of(20_000), base=BASE)
for start in range(0, 20_000, 3):
    store.append([row_of(i) for i in range(start, start + 3)])
    time.sleep(0.002)  # it must not be done before it is killed
"""


def start_writer(directory: Path) -> subprocess.Popen:
    """A process that creates a sweep of 20,000 points and appends to it."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(directory), str(Path(__file__).parents[2])])
    deadline = time.monotonic() + 60
    while not (directory / "results.csv").exists() or (directory / "results.csv").stat().st_size < 40_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.skipif(os.name != "posix", reason="kills a process with a signal")
def test_a_killed_sweep_goes_on_and_only_one_process_writes(tmp_path):
    points, process = points_of(20_000), start_writer(tmp_path)
    try:
        for ask in (lambda: SweepStore.resume(tmp_path, points, BASE), lambda: SweepStore.create(tmp_path, points, base=BASE)):
            with pytest.raises(SimjaxError) as told:
                ask()
            assert f"process {process.pid} on {socket.gethostname()} is running this sweep" in str(told.value)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with (tmp_path / "results.csv").open("ab") as file:  # what a kill inside a write leaves
        file.write(b"19999,null,x,5")
    before = read_results(tmp_path)
    assert (tmp_path / LOCK).exists()
    store, warnings = SweepStore.resume(tmp_path, points, BASE)
    with store:
        done = store.done()
        assert warnings == [] and done == set(before["point"]) == set(range(len(before))) and 30 < len(done) < 19_000
        store.append([row_of(i) for i in range(20_000) if i not in done])
        after = store.finish()
    assert after is not None and after["point"].tolist() == list(range(20_000))
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
    assert after["ttft_p99_s"].tolist() == [(i + 1) / 3.0 for i in range(20_000)]
    assert not (tmp_path / LOCK).exists()


def test_the_lock_outlives_no_process_but_holds_against_others(tmp_path):
    first = DirectoryLock(tmp_path / LOCK)
    with pytest.raises(SimjaxError, match=f"process {os.getpid()} on .* is running this sweep; wait for it, or stop it"):
        DirectoryLock(tmp_path / LOCK)
    first.release()
    first.release()
    # What a process left that was killed, whoever has its number now, and whatever it wrote.
    for left in (json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), '{"pid": 1, "host": "elsewhere"}', '{"pi', "[]"):
        (tmp_path / LOCK).write_text(left)
        DirectoryLock(tmp_path / LOCK).release()
        assert not (tmp_path / LOCK).exists()


def test_without_locks_in_the_file_system_the_named_process_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("simjax.explore.store.lock.fcntl", None)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    for left in ({"pid": gone.pid, "host": here}, None):
        (tmp_path / LOCK).write_text(json.dumps(left))
        DirectoryLock(tmp_path / LOCK).release()
    for left in ({"pid": os.getpid(), "host": here}, {"pid": gone.pid, "host": "elsewhere"}):
        (tmp_path / LOCK).write_text(json.dumps(left))
        with pytest.raises(SimjaxError, match=f"process {left['pid']} on {left['host']} .*if that process has ended, remove"):
            DirectoryLock(tmp_path / LOCK)


def test_the_directory_says_what_its_points_are(tmp_path):
    points = Points(("scheduler.max_num_seqs", "device"), ((64, "h100"), (32, "b")))
    with SweepStore.create(tmp_path, points, base=BASE) as store:
        store.append([row_of(1)])
    store, _ = SweepStore.resume(tmp_path)
    with store:
        assert store.points == points and store.done() == {1} and store.info["base"] == BASE
    (tmp_path / "points.csv").write_text("point,scheduler.max_num_seqs,device\n0,64,h100\n1,33,b\n")
    with pytest.raises(SimjaxError, match=r"points.csv: changed since the sweep began"):
        SweepStore.resume(tmp_path)


def test_resume_refuses_what_is_another_sweep(tmp_path):
    with SweepStore.create(tmp_path / "s", points_of(3), base=BASE) as store:
        store.append([row_of(0)])
    fewer, other = points_of(2), Points(KEYS, points_of(3).rows[::-1])
    cases = [
        (lambda: SweepStore.resume(tmp_path / "none", points_of(3), BASE), "none: no such directory"),
        (lambda: SweepStore.resume(tmp_path, points_of(3), BASE), "no sweep there: it has no sweep.json"),
        (
            lambda: SweepStore.resume(tmp_path / "s", fewer, BASE),
            "3 points of model scheduler.max_num_seqs workload.rate, the options give 2 points of",
        ),
        (lambda: SweepStore.resume(tmp_path / "s", other, BASE), "the same keys, but other values or another order"),
        (lambda: SweepStore.resume(tmp_path / "s", points_of(3), ["device=h200", BASE[1]]), "(device=h100 there, device=h200 now)"),
        (lambda: SweepStore.resume(tmp_path / "s", points_of(3), [*BASE, "a=1"]), "(nothing there, a=1 now)"),
        (lambda: SweepStore.create(tmp_path / "s", points_of(3), base=BASE), "holds a sweep already; resume it with sweep.resume="),
        (lambda: SweepStore.create(tmp_path / "s" / "points.csv", points_of(3), base=BASE), "points.csv: cannot write it: File exists"),
    ]
    for ask, said in cases:
        with pytest.raises(SimjaxError) as told:
            ask()
        assert said in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / LOCK).exists()
    SweepStore.resume(tmp_path / "s", points_of(3), BASE)[0].close()  # and none of them kept it locked


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("sweep.json", "{", "sweep.json: cannot read it"),
        ("sweep.json", '{"version": 2}', "sweep.json: not written by this version of simjax"),
        ("results.csv", "point,model\n0,a\n", "results.csv: its columns are not those of this version of simjax"),
    ],
)
def test_damage_is_told_in_one_line(tmp_path, name, content, said):
    SweepStore.create(tmp_path, points_of(3), base=BASE).close()
    (tmp_path / name).write_text(content)
    with pytest.raises(SimjaxError) as told:
        SweepStore.resume(tmp_path, points_of(3), BASE)
    assert said in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("line", ["3,a\n", "x,a\n", ",\n", "1,null,x\n"])
def test_a_line_that_is_no_row_is_told(tmp_path, line):
    with SweepStore.create(tmp_path, points_of(3), base=BASE) as store:
        store.append([row_of(0)])
        with (tmp_path / "results.csv").open("a") as file:
            file.write(line)
        for ask in (store.done, store.finish):
            with pytest.raises(SimjaxError, match=r"results.csv: damaged: row 2 is not the row of a point"):
                ask()


@pytest.mark.parametrize("ends", ["\n", "\n\n  \n", "\r\n", "\n "])
def test_blank_lines_at_the_end_are_no_rows(tmp_path, ends):
    """As editors leave them."""
    with SweepStore.create(tmp_path, points_of(3), base=BASE) as store:
        store.append([row_of(0)])
    with (tmp_path / "results.csv").open("a", newline="") as file:
        file.write(ends)
    store, _ = SweepStore.resume(tmp_path, points_of(3), BASE)
    with store:
        assert store.done() == {0}
        store.append([row_of(2)])
        assert store.done() == {0, 2} and len(read_results(tmp_path)) == 2
        store.finish()
    assert (tmp_path / "results.csv").read_text().count("\n") == 3


FIRST, SECOND = "0,llama-3.1-8b,32,0.1,", "1,\"'a \\'quoted, b'\",x,0.2,"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (SECOND, "1,llama-3.1-8b,x,0.2,", "row 2 was changed: model is llama-3.1-8b there, 'a \\'quoted, b' in points.csv for point 1;"),
        (SECOND, SECOND.replace("0.2", "0.25"), "row 2 was changed: workload.rate is 0.25 there, 0.2 in points.csv for point 1;"),
        (FIRST, FIRST.replace("32", ""), "row 1 was changed: scheduler.max_num_seqs is empty there, 32 in points.csv for point 0;"),
        (
            FIRST,
            FIRST.replace("0,", "1,", 1),
            "row 1 was changed: model is llama-3.1-8b there, 'a \\'quoted, b' in points.csv for point 1;",
        ),
    ],
)
def test_rows_of_other_values_than_their_points_are_refused(tmp_path, old, new, said):
    with SweepStore.create(tmp_path, points_of(3), base=BASE) as store:
        store.append([row_of(0), row_of(1)])
    table = tmp_path / "results.csv"
    before = table.read_text()
    assert before.count(f"\n{old}") == 1
    table.write_text(before.replace(f"\n{old}", f"\n{new}"))
    with SweepStore.resume(tmp_path, points_of(3), BASE)[0] as store:
        for ask in (store.done, store.finish):
            with pytest.raises(SimjaxError) as told:
                ask()
            assert said in str(told.value) and "results.csv: " in str(told.value) and "\n" not in str(told.value)
    table.write_text(before.replace("llama-3.1-8b", '"llama-3.1-8b"'))  # other quotes, the same values
    with SweepStore.resume(tmp_path, points_of(3), BASE)[0] as store:
        assert store.done() == {0, 1}


def test_another_version_is_a_warning(tmp_path, monkeypatch):
    SweepStore.create(tmp_path, points_of(3), base=BASE).close()
    now = manifest._versions()
    monkeypatch.setattr(manifest, "_versions", lambda: now | {"simjax": "9.9", "python": "3.99"})
    store, warnings = SweepStore.resume(tmp_path, points_of(3), BASE)
    store.close()
    assert len(warnings) == 1 and f"began with simjax {now['simjax']}, now 9.9: old and new rows" in warnings[0]


def test_parquet_is_the_same_table_with_types_that_do_not_depend_on_the_rows(tmp_path):
    pytest.importorskip("pyarrow")
    pyarrow_parquet = pytest.importorskip("pyarrow.parquet")
    schemas = []
    for name, rows in {
        "some": [row_of(0), row_of(1, "invalid"), row_of(2)],
        "invalid": [row_of(1, "invalid")],
        "whole": [row_of(0)],
    }.items():
        with SweepStore.create(tmp_path / name, points_of(3), base=BASE) as store:
            store.append(rows)
            table = store.finish()
        found = pd.read_parquet(tmp_path / name / "results.parquet")
        assert table is not None and list(found.columns) == list(table.columns)
        for column in found.columns:
            assert [None if pd.isna(x) else x for x in found[column]] == [None if pd.isna(x) else x for x in table[column]], column
        schema = pyarrow_parquet.read_schema(tmp_path / name / "results.parquet")
        schemas.append({field.name: str(field.type) for field in schema if field.name not in KEYS})
    assert schemas[0] == schemas[1] == schemas[2]
    kinds = schemas[0]
    assert kinds["point"] == kinds["ticks"] == "int64" and kinds["ttft_p99_s"] == kinds["tpot_mean_s"] == "double"
    assert kinds["reason"] in ("string", "large_string")


def test_without_pyarrow_there_is_only_the_csv(tmp_path, monkeypatch):
    monkeypatch.setattr("simjax.explore.store.store.find_spec", lambda name: None)
    with SweepStore.create(tmp_path, points_of(3), base=BASE) as store:
        store.append([row_of(0)])
        store.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points.csv", "results.csv", "sweep.json"]


def test_designs_of_replicate_seeds(tmp_path):
    points = Points(("workload.rate", "workload.seed"), tuple((rate, seed) for rate in (1.0, 2.5) for seed in range(3)))
    with SweepStore.create(tmp_path, points, base=BASE, seeds=range(3)) as store:
        store.append([row_of(i) for i in range(5)])
        store.finish()
        found = read_designs(tmp_path)
        assert found is not None and found["workload.rate"].tolist() == [1.0, 2.5]
        assert found["status"].tolist() == ["finished", "incomplete"] and found["replicates"].tolist() == [3, 2]
        store.append([row_of(5)])
        table = store.finish()
    found = read_designs(tmp_path)
    assert table is not None and found is not None and found["status"].tolist() == ["finished", "finished"]
    expected = aggregate(table, points.keys)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_exact=True)
    assert found["ttft_p99_s"].tolist() == pytest.approx([2 / 3, 5 / 3]) and (found["ttft_p99_s_ci95"] > 0).all()


def test_importing_needs_no_jax():
    code = "import sys, simjax.explore.store.store, simjax.explore.pareto.replicates, simjax.metrics.rows; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
