"""Readers on small handmade files: malformed rows, line numbers, containers, detection."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from simjax.errors import SimjaxError
from simjax.workload.formats import FORMATS, read_lengths, read_trace

PLAIN = "arrival_s,prompt_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def write(folder, text, name="trace.csv"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def arrivals(path, **options):
    return read_trace(path, **options).workload.arrival_s.tolist()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2,5", "2 fields where the header names 3"),
        ("2,5,6,7", "4 fields where the header names 3"),
        ("2,,6", "prompt_tokens is missing"),
        ("2,many,6", "prompt_tokens=many is not a number"),
        ("2,5,-6", "output_tokens=-6 must be at least 0"),
        ("2,0,6", "prompt_tokens=0 must be at least 1"),
        ("2,5.5,6", "prompt_tokens=5.5 is not a whole number"),
        ("2,5,1e12", "output_tokens=1e12 is more than 2147483647"),
        ("2,nan,6", "prompt_tokens=nan is not a number"),
        ("soon,5,6", "arrival_s=soon is not a number"),
        ("inf,5,6", "arrival_s=inf is not a number"),
        ("-2,5,6", "arrival_s=-2 is not a time: it is negative"),
        (f"{'9' * 60}x,5,6", f"arrival_s={'9' * 37}... is not a number"),
    ],
)
def test_a_malformed_row_is_an_error_with_its_line_or_is_skipped(tmp_path, row, reason):
    path = write(tmp_path, f"{PLAIN}1,5,6\n\n{row}\n4,7,8\n")
    with pytest.raises(SimjaxError) as error:
        read_trace(path)
    assert str(error.value) == f"{path}:4: {reason} (on_bad_row=skip leaves such rows out)"
    trace = read_trace(path, on_bad_row="skip")
    assert (trace.rows, trace.skipped, trace.dropped) == (3, 1, 0)
    assert trace.workload.arrival_s.tolist() == [0.0, 3.0] and trace.lines.tolist() == [2, 5]
    assert trace.workload.prompt_tokens.tolist() == [5, 7] and trace.workload.output_tokens.tolist() == [6, 8]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"timestamp": 5, "input_length": 3}', "output_length is missing"),
        ('{"timestamp": 5, "input_length": null, "output_length": 2}', "input_length is missing"),
        ('{"timestamp": 5, "input_length": [3, 4], "output_length": 2}', "input_length=[3, 4] is not a number"),
        ('{"timestamp": 5, "input_length": 3, "output_len', "not valid JSON at column 37: unterminated string starting"),
        ("17", "not a JSON object"),
    ],
)
def test_a_malformed_json_line_is_an_error_with_its_line_or_is_skipped(tmp_path, line, reason):
    good = '{"timestamp": 0, "input_length": 3, "output_length": 4}'
    path = write(tmp_path, f"{good}\n{good}\n{line}\n", "trace.jsonl")
    with pytest.raises(SimjaxError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:3: {reason} (")
    trace = read_trace(path, on_bad_row="skip")
    assert (trace.format, trace.rows, trace.skipped, len(trace.workload)) == ("mooncake", 3, 1, 2)


def test_equal_json_lists_in_every_row_are_no_numbers(tmp_path):
    path = write(tmp_path, '{"timestamp": 0, "input_length": [3], "output_length": 4}\n' * 2, "trace.jsonl")
    with pytest.raises(SimjaxError, match=r"trace\.jsonl:1: input_length=\[3\] is not a number"):
        read_trace(path)


@pytest.mark.parametrize("stamp", ["yesterday", "2023-13-16 18:15:46.0", "2424-11-16 18:15:46.0", ""])
def test_an_unparsable_date_time_is_an_error_with_its_line(tmp_path, stamp):
    path = write(tmp_path, f"{AZURE}2023-11-16 18:15:46.6805900,374,44\n{stamp},1,2\n")
    with pytest.raises(SimjaxError, match=r"trace\.csv:3: TIMESTAMP"):
        read_trace(path)


def test_date_times_of_every_precision_and_with_or_without_offset_mix(tmp_path):
    rows = ["2023-11-16 18:15:46.6805900", "2023-11-16 18:15:46.6805901", "2023-11-16 18:15:47", "2023-11-16 18:15:47.680590+00:00"]
    path = write(tmp_path, AZURE + "".join(f"{stamp},1,2\n" for stamp in rows))
    assert arrivals(path) == [0.0, 1e-7, 0.31941, 1.0]


def test_line_numbers_count_physical_lines_inside_quoted_fields(tmp_path):
    path = write(tmp_path, f'note,{PLAIN}"two\nlines",0,1,1\nx,1,0,1\n')
    with pytest.raises(SimjaxError, match=r"trace\.csv:4: prompt_tokens=0"):
        read_trace(path)


def test_line_numbers_survive_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("simjax.workload.formats.tables.rows._CHUNK_ROWS", 4)
    path = write(tmp_path, PLAIN + "".join(f"{i},{i + 1},1\n" for i in range(10)))
    trace = read_trace(path)
    assert trace.lines.tolist() == list(range(2, 12)) and trace.workload.prompt_tokens.tolist() == list(range(1, 11))
    path.write_text(path.read_text() + "10,0,1\n")
    with pytest.raises(SimjaxError, match=r"trace\.csv:12: "):
        read_trace(path)


def test_unsorted_rows_are_sorted_and_ties_keep_file_order(tmp_path):
    path = write(tmp_path, f"{PLAIN}7,1,1\n5,2,1\n7,3,1\n5,4,1\n")
    trace = read_trace(path)
    assert trace.workload.prompt_tokens.tolist() == [2, 4, 1, 3]
    assert trace.workload.arrival_s.tolist() == [0.0, 0.0, 2.0, 2.0] and trace.lines.tolist() == [3, 5, 2, 4]


def test_columns_are_found_by_name(tmp_path):
    path = write(tmp_path, "output_tokens, prompt_tokens ,user,arrival_s\n1,2,ann,3\n4,5,bob,6\n")
    workload = read_trace(path).workload
    assert workload.prompt_tokens.tolist() == [2, 5] and workload.output_tokens.tolist() == [1, 4]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    assert arrivals(write(tmp_path, "\ufeff" + PLAIN + "1,5,6\n2,5,6\n")) == [0.0, 1.0]


@pytest.mark.parametrize(("unit", "format"), [("status", "vllm_trace"), ("error", "vllm_requests")])
def test_requests_that_failed_when_recorded_are_dropped_whatever_else_their_row_holds(tmp_path, unit, format):
    header = {
        "vllm_trace": "send_time_us,server_input_tokens,output_tokens,status\n",
        "vllm_requests": "arrival_s,input_tokens,server_output_tokens_nominal,error\n",
    }[format]
    good, bad = {"status": ("ok", "timeout"), "error": ("0", "1")}[unit]
    path = write(tmp_path, f"{header}10,5,6,{good}\n20,0,0,{bad}\n30,7,8,{good}\n")
    trace = read_trace(path)
    assert (trace.format, trace.rows, trace.dropped, trace.skipped) == (format, 3, 1, 0)
    assert trace.lines.tolist() == [2, 4]


def test_gzip_is_told_by_content_and_damage_is_reported(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(gzip.compress((PLAIN + "1,5,6\n3,5,6\n").encode()))
    assert arrivals(path) == [0.0, 2.0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SimjaxError, match=r"trace\.csv: damaged gzip file"):
        read_trace(path)


def test_parquet_holds_the_same_columns(tmp_path):
    path = tmp_path / "trace.parquet"
    pd.DataFrame({"arrival_s": [1.0, 2.5], "prompt_tokens": [3, 4], "output_tokens": [5, 6], "user": ["a", "b"]}).to_parquet(path)
    trace = read_trace(path)
    assert (trace.format, trace.workload.arrival_s.tolist()) == ("plain", [0.0, 1.5])
    pd.DataFrame(
        {"TIMESTAMP": pd.to_datetime(["2024-05-12 08:00", "2024-05-12 08:01"]), "ContextTokens": [3, 4], "GeneratedTokens": [5, -1]}
    ).to_parquet(path)
    with pytest.raises(SimjaxError, match=r"trace\.parquet: row 2: GeneratedTokens=-1 must be at least 0"):
        read_trace(path)
    assert read_trace(path, on_bad_row="skip").workload.prompt_tokens.tolist() == [3]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SimjaxError, match="damaged Parquet file"):
        read_trace(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "trace.parquet"
    pd.DataFrame({"arrival_s": [1.0], "prompt_tokens": [3], "output_tokens": [5]}).to_parquet(path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SimjaxError, match=r'needs pyarrow: pip install "simjax\[parquet\]"'):
        read_trace(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (PLAIN, "the trace has no usable request$"),
        (PLAIN + "x,1,1\n", "the trace has no usable request: 1 malformed and 0 failed rows"),
        ('[{"timestamp": 0}]', r"cannot tell the format from its columns \(timestamp\)"),
        ("[1, 2", "not valid JSON at line 1 column 6"),
        ("time,prompt\n1,2\n", r"cannot tell the format from its columns \(time, prompt\)"),
    ],
)
def test_a_file_without_requests_is_an_error(tmp_path, text, reason):
    with pytest.raises(SimjaxError, match=rf"trace\.csv: {reason}"):
        read_trace(write(tmp_path, text), on_bad_row="skip")


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\x80\x81\xff\xfe")
    with pytest.raises(SimjaxError, match="not a text file"):
        read_trace(path)


def test_paths_that_are_no_files_are_errors(tmp_path):
    with pytest.raises(SimjaxError, match=r"nowhere\.csv: no such file"):
        read_trace(tmp_path / "nowhere.csv")
    with pytest.raises(SimjaxError, match="a directory, not a trace file"):
        read_trace(tmp_path)


def test_wrong_options_are_errors_with_hints(tmp_path):
    path = write(tmp_path, PLAIN + "1,5,6\n")
    with pytest.raises(SimjaxError, match="unknown trace format 'azur'; did you mean azure"):
        read_trace(path, format="azur")
    with pytest.raises(SimjaxError, match=r"the azure format needs the column\(s\) TIMESTAMP, ContextTokens, GeneratedTokens"):
        read_trace(path, format="azure")
    with pytest.raises(SimjaxError, match="looks like csv, but the mooncake format is jsonl"):
        read_trace(path, format="mooncake")
    with pytest.raises(SimjaxError, match="on_bad_row='ignore' is not known; use error or skip"):
        read_trace(path, on_bad_row="ignore")


def test_a_csv_of_lengths_only_is_read_as_lengths(tmp_path):
    path = write(tmp_path, "prompt_tokens,output_tokens\n3,4\n0,1\n5,6\n")
    lengths = read_lengths(path, on_bad_row="skip")
    assert lengths.prompt_tokens.tolist() == [3, 5] and lengths.output_tokens.tolist() == [4, 6] and lengths.skipped == 1


TABLES = {name: fmt for name, fmt in FORMATS.items() if fmt.reader is None}  # tests/workload/test_results.py writes the others


@pytest.mark.parametrize("fmt", TABLES.values(), ids=list(TABLES))
def test_every_format_is_recognised_from_its_own_columns(tmp_path, fmt):
    """No format's files are mistaken for another's: write the smallest file of each and read it back."""
    stamps = ["2024-01-01 00:00:00", "2024-01-01 00:00:02"] if fmt.stamps_per_second is None else [0, 2 * fmt.stamps_per_second]
    rows = [{fmt.arrival: stamp, fmt.prompt: 3, fmt.output: 4, **dict.fromkeys(fmt.also, "x")} for stamp in stamps]
    if fmt.container == "json":  # one session per file, with its own field names
        text = json.dumps({"block_size": 4, "requests": [{"t": at, "in": 3, "out": 4} for at in (0, 2)]})
    elif fmt.container == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = ",".join(rows[0]) + "\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
    trace = read_trace(write(tmp_path, text))
    assert trace.format == fmt.name
    np.testing.assert_array_equal(trace.workload.arrival_s, [0.0, 2.0 if fmt.container != "json" else np.inf])
    np.testing.assert_array_equal(trace.workload.prompt_tokens, [3, 3])
    np.testing.assert_array_equal(trace.workload.output_tokens, [4, 4])
