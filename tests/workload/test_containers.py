"""Text files as spreadsheets and tools write them: compression, encodings, delimiters, comments, letter case, JSON lists."""

import gzip
import json

import pandas as pd
import pytest

from simjax.errors import SimjaxError
from simjax.workload import read_trace
from tests.data import data_path

NAMES = ("arrival_s", "prompt_tokens", "output_tokens")
ROWS = ((0, 100, 10), (1.5, 200, 20))
TEXT = ",".join(NAMES) + "\n0,100,10\n1.5,200,20\n"
TAB, SEMICOLON, UPPER = TEXT.replace(",", "\t"), TEXT.replace(",", ";").replace("1.5", "1,5"), TEXT.replace("arrival_s,p", "Arrival_S,P")


def zstd(text: str) -> bytes:
    return bytes(pytest.importorskip("pyarrow").compress(text.encode(), codec="zstd", asbytes=True))


def check(path, lines=(2, 3)):
    trace = read_trace(path)
    assert trace.workload.arrival_s.tolist() == [0.0, 1.5] and trace.lines.tolist() == list(lines)
    assert trace.workload.prompt_tokens.tolist() == [100, 200] and trace.workload.output_tokens.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (TEXT.encode("utf-16"), (2, 3)),
        (TEXT.encode("utf-16-be").join([b"\xfe\xff", b""]), (2, 3)),
        (TAB.encode("utf-16"), (2, 3)),
        (gzip.compress(TEXT.encode("utf-16"), mtime=0), (2, 3)),
        (TAB.encode(), (2, 3)),
        (SEMICOLON.encode(), (2, 3)),
        (TEXT.replace(",", "|").encode(), (2, 3)),
        (b"sep=;\r\n" + SEMICOLON.replace("\n", "\r\n").encode(), (3, 4)),
        (UPPER.encode(), (2, 3)),
        (b"Arrival-S, Prompt Tokens ,OUTPUT_TOKENS\n0,100,10\n1.5,200,20\n", (2, 3)),
        (b"# exported 2026\n\n  # by hand, twice\n" + TEXT.encode(), (5, 6)),
        (TEXT.replace("1.5", "# pause\n1.5").encode(), (2, 4)),
        (b"# arrival_s,prompt_tokens,output_tokens\n0,100,10\n1.5,200,20\n", (2, 3)),
        (json.dumps([dict(zip(NAMES, row, strict=True)) for row in ROWS]).encode(), (1, 2)),
        (b"# exported\n" + b"".join(json.dumps(dict(zip(NAMES, row, strict=True))).encode() + b"\n" for row in ROWS), (2, 3)),
    ],
)
def test_every_form_of_a_table_is_read(tmp_path, content, lines):
    path = tmp_path / "trace.txt"
    path.write_bytes(content)
    check(path, lines)


@pytest.mark.parametrize("name", ["comment.csv", "semi.csv", "tab.tsv", "upper.csv", "utf16.csv"])
def test_the_cases_of_containers(name):
    check(data_path(f"cases/containers_and_delimiters/{name}"), (3, 4) if name == "comment.csv" else (2, 3))


def test_zstd_is_told_by_content(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(zstd(TEXT))
    check(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-6])
    with pytest.raises(SimjaxError, match=r"trace\.csv: "):
        read_trace(path)


def test_the_case_zstd():
    trace = read_trace(data_path("cases/containers_and_delimiters/azure2025.csv.zst"))
    assert trace.workload.prompt_tokens.tolist() == [3200, 100, 1700] and trace.workload.output_tokens.tolist() == [64, 1, 31]


def test_zstd_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "trace.csv.zst"
    path.write_bytes(zstd(TEXT))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SimjaxError, match=r'trace\.csv\.zst: reading zstd needs pyarrow: pip install "simjax\[parquet\]"'):
        read_trace(path)


def test_parquet_in_other_letter_case(tmp_path):
    path = tmp_path / "trace.parquet"
    pd.DataFrame({"ARRIVAL_S": [0.0, 1.5], "Prompt_Tokens": [100, 200], "Output_Tokens": [10, 20]}).to_parquet(path)
    check(path, (1, 2))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT.replace("1.5", '"1,5"'), r"trace\.csv:3: arrival_s=1,5 is not a number"),  # thousands? a decimal comma? nobody knows
        (SEMICOLON.replace("200", "2,5"), r"trace\.csv:3: prompt_tokens=2.5 is not a whole number"),
        (TEXT + "# not, a, comment\n", r"trace\.csv:4: arrival_s=# not is not a number"),
        ("[" * 100_000, r"trace\.csv: not valid JSON: nested too deeply"),
        ('{"a":' * 100_000, "cannot tell the format"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, text, reason):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(SimjaxError, match=reason):
        read_trace(path)
