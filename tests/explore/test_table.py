"""Reading a sweep's tables as they are: exact, unfinished, in shards, damaged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.explore.store.manifest import read_sweep
from simjax.explore.store.table import read_designs, read_results, swept_keys

HEADER = "point,model,scheduler.max_num_seqs,status,reason,gpus,ttft_p99_s\n"


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + "".join(lines))
    return path.parent


def test_types_and_order(tmp_path: Path) -> None:
    write(
        tmp_path / "results.csv",
        "2,llama-3.1-8b,null,finished,,8,0.1\n",
        '0,"\'a,b\'",64,invalid,"it does not fit: ""too big"", sorry",,\n',
        "1,true,128,finished,,4,5e-324\n",
    )
    table = read_results(tmp_path)
    assert swept_keys(table) == ["model", "scheduler.max_num_seqs"]
    assert table["point"].to_list() == [0, 1, 2]
    assert table["point"].dtype == np.int64
    assert table["model"].to_list() == ["'a,b'", "true", "llama-3.1-8b"]
    assert table["scheduler.max_num_seqs"].to_list() == ["64", "128", "null"]
    assert table["reason"].to_list()[0] == 'it does not fit: "too big", sorry'
    assert table["reason"].isna().to_list() == [False, True, True]
    assert table["gpus"].isna().to_list() == [True, False, False]
    assert table["gpus"].dropna().map(str).to_list() == ["4", "8"], "whole numbers stay whole beside an empty cell"
    assert table["ttft_p99_s"].dtype == np.float64
    assert table["ttft_p99_s"].to_list()[1:] == [5e-324, 0.1]


def test_keys_of_truth_values_are_words_of_overrides(tmp_path: Path) -> None:
    header = "point,scheduler.enable_chunked_prefill,status,a\n"
    write(tmp_path / "results.csv", "0,true,finished,1.5\n", "1,false,finished,2.5\n", header=header)
    assert read_results(tmp_path)["scheduler.enable_chunked_prefill"].to_list() == ["true", "false"]


def test_floats_come_back_to_the_last_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(3000) * 10.0 ** rng.integers(-300, 300, 3000)
    write(tmp_path / "results.csv", *(f"{i},x,1,finished,,1,{value!r}\n" for i, value in enumerate(values.tolist())))
    np.testing.assert_array_equal(read_results(tmp_path)["ttft_p99_s"].to_numpy(), values)


def test_a_last_line_without_its_end_is_ignored(tmp_path: Path) -> None:
    """A number may be cut too: 0.25 looks whole, and was 0.251."""
    for cut in ("1,x,2,finished,,4,0.25", "1,x", "1", '1,x,2,error,"a line\nand half a', '1,x,2,error,"line\n\nline'):
        write(tmp_path / "results.csv", "0,x,1,finished,,4,0.5\n", cut)
        assert read_results(tmp_path)["point"].to_list() == [0], cut
    write(tmp_path / "results.csv", "0,x,1,finished,,4,0.5\n", '1,x,2,error,"two\nlines",,\n', "2,x")
    assert read_results(tmp_path)["reason"].to_list()[1] == "two\nlines"


def test_the_last_row_of_a_point_counts(tmp_path: Path) -> None:
    write(tmp_path / "results.csv", "1,x,1,error,once,,\n", "0,x,1,finished,,4,0.5\n", "1,x,1,finished,,4,0.25\n")
    table = read_results(tmp_path)
    assert table["point"].to_list() == [0, 1]
    assert table["status"].to_list() == ["finished", "finished"]
    assert table["ttft_p99_s"].to_list() == [0.5, 0.25]


def test_shards_are_joined(tmp_path: Path) -> None:
    for shard, point in ((1, 2), (2, 0), (10, 1)):
        write(tmp_path / f"shard-{shard}-of-10" / "results.csv", f"{point},x,{shard},finished,,4,0.5\n", "9,x")
    write(tmp_path / "shard-3-of-10" / "results.csv", header="point,mod")
    table = read_results(tmp_path)
    assert table["point"].to_list() == [0, 1, 2]
    assert table["scheduler.max_num_seqs"].to_list() == [2, 10, 1]
    assert read_results(tmp_path / "shard-10-of-10")["point"].to_list() == [1]
    write(tmp_path / "results.csv", "2,x,77,finished,,4,0.5\n")
    assert read_results(tmp_path)["scheduler.max_num_seqs"].to_list() == [2, 10, 1], "a shard's row comes after the directory's own"


def test_designs(tmp_path: Path) -> None:
    write(tmp_path / "results.csv", "0,x,1,finished,,4,0.5\n")
    assert read_designs(tmp_path) is None
    write(tmp_path / "designs.csv", header="model,replicates,ttft_p99_s,ttft_p99_s_ci95\n")
    assert read_designs(tmp_path) is None
    write(tmp_path / "designs.csv", "x,3,0.5,0.1\n", "y,1,0.25,\n", header="model,replicates,ttft_p99_s,ttft_p99_s_ci95\n")
    designs = read_designs(tmp_path)
    assert designs is not None
    assert designs["replicates"].to_list() == [3, 1]
    assert designs["ttft_p99_s_ci95"].isna().to_list() == [False, True]


def test_sweep_json(tmp_path: Path) -> None:
    write(tmp_path / "results.csv", "0,x,1,finished,,4,0.5\n")
    assert read_sweep(tmp_path) == {}
    (tmp_path / "shard-2-of-2").mkdir()
    (tmp_path / "shard-2-of-2" / "sweep.json").write_text(json.dumps({"points": 7}))
    assert read_sweep(tmp_path) == {"points": 7}
    for text in ("{", "[]"):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(SimjaxError, match=r"sweep\.json: "):
            read_sweep(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no point of this sweep is done yet; resume it with sweep.resume="),
        (HEADER, "no point of this sweep is done yet"),
        (HEADER + "0,x,1,fini", "no point of this sweep is done yet"),
        ("a,b\n1,2\n", "results.csv has no column 'point'"),
        ("point,b\n1,2\n", "results.csv has no column 'status'"),
        (HEADER + "0,x,1,finished,,4,0.5\none,x,1,finished,,4,0.5\n", "column 'point' must hold numbers of points"),
        (HEADER + "0,x,1,finished,,4,0.5\n,x,1,finished,,4,0.5\n", "column 'point' must hold numbers of points"),
        (HEADER + "0,x,1,finished,,4,0.5\n1,x,1,finished,,4,0.5,7,8\n", "results.csv: damaged: Expected 7 fields in line 3, saw 9"),
        (HEADER + "0,x,1,finished,,4,0.5,9\n", "results.csv: damaged: lines have more fields than the header"),
        (HEADER + "0,\udcff,1,finished,,4,0.5\n", "results.csv: not a text file"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "results.csv").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SimjaxError) as error:
        read_results(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_damaged_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path / "shard-1-of-2" / "results.csv", "0,x,1,finished,,4,0.5\n")
    write(tmp_path / "shard-2-of-2" / "results.csv", "1,x,1,finished,,4,0.5,6,7\n", "2,x,1,finished,,4,0.5\n")
    with pytest.raises(SimjaxError, match=r"shard-2-of-2/results.csv: damaged: lines have more fields"):
        read_results(tmp_path)
    write(tmp_path / "shard-2-of-2" / "results.csv", "1,2\n", header="point,status\n")
    with pytest.raises(SimjaxError, match=r"shard-2-of-2/results.csv: its columns are not those of .*shard-1-of-2/results.csv"):
        read_results(tmp_path)


def test_directories_that_hold_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "file.csv").touch()
    for name, said in (
        (".", "not a sweep: it has neither sweep.json nor results.csv"),
        ("none", "no such directory"),
        ("file.csv", "a file;"),
    ):
        with pytest.raises(SimjaxError, match=said):
            read_results(tmp_path / name)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(SimjaxError, match="no point of this sweep is done yet"):
        read_results(tmp_path)


def test_reading_needs_no_jax() -> None:
    modules = "simjax.explore.store.table, simjax.explore.pareto.front, simjax.cli.sweep_report, simjax.explore.pareto.replicates"
    code = f"import sys, {modules}; print(sorted(set(sys.modules) & {{'jax', 'matplotlib'}}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
