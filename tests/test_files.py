"""Writing files: whole or not at all, never through links; every module writes that way."""

import ast
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import simjax
from simjax.disk.documents import read_document, with_digest
from simjax.disk.files import append_file, cell, text_of_cell, write_file, write_json, write_table
from simjax.errors import SimjaxError
from simjax.metrics.files import write_results
from simjax.workload import read_trace
from tests.metrics.factory import two_sessions

PACKAGE = Path(simjax.__file__).parent
WRITERS = {"write_text", "write_bytes", "to_csv", "to_json", "savefig", "savez", "savez_compressed", "savetxt", "touch", "truncate"}
SERIALIZERS = {"dump": ("json", "pickle"), "save": ("np", "jnp")}  # their `dump` writes into an open file; that of yaml returns a text


def stray_writers(source: str) -> list[str]:
    """Calls that write a file by themselves: writing methods, and `open` with a mode other than reading."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        of = called.value.id if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) else ""
        target = ast.unparse(node.args[0]) if node.args else ""
        in_memory = name in ("to_csv", "savefig", "savez") and (not node.args or target in ("drawn", "packed"))
        modes = [x.value for x in [*node.args, *(k.value for k in node.keywords if k.arg == "mode")] if isinstance(x, ast.Constant)]
        opened = name == "open" and any(isinstance(mode, str) and len(mode) <= 3 and set(mode) & set("wax+") for mode in modes)
        wrote = name in WRITERS and isinstance(called, ast.Attribute) and not in_memory
        if wrote or opened or of in SERIALIZERS.get(name, ()) or (of, name) in (("os", "open"), ("os", "truncate")):
            found.append(ast.unparse(node))
    return found


def test_no_module_writes_a_file_by_itself() -> None:
    known = {"disk/files.py", "explore/store/lock.py"}
    for path in PACKAGE.rglob("*.py"):
        if str(path.relative_to(PACKAGE)) not in known:
            strays = [call for call in stray_writers(path.read_text(encoding="utf-8")) if "os.devnull" not in call]
            assert not strays, f"{path}: {strays}: write it with simjax.disk.files"


@pytest.mark.parametrize(
    "line",
    [
        "p.write_text('x')",
        "open(p, 'w')",
        "p.open('ab')",
        "open(p, mode='r+')",
        "t.to_csv(p)",
        "np.savez(p, x)",
        "f.savefig(p)",
        "json.dump(x, f)",
        "np.save(p, x)",
    ],
)
def test_a_stray_writer_is_seen(line: str) -> None:
    assert stray_writers(line)
    assert not stray_writers("open(p); p.open('rb'); t.to_csv(index=False); yaml.dump(x); json.dumps(x); text.replace('w', 'a')")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    there = tmp_path / "there"
    for make in (Path.symlink_to, Path.hardlink_to):
        there.write_text("precious")
        link = tmp_path / make.__name__
        make(link, there)
        write_file(link, "new")
        assert (there.read_text(), link.read_text(), link.is_symlink()) == ("precious", "new", False)
    assert len(list(tmp_path.iterdir())) == 3, "a temporary file was left behind"


def test_appending_refuses_links(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("precious")
    (tmp_path / "soft").symlink_to(there)
    (tmp_path / "hard").hardlink_to(there)
    for name in ("soft", "hard"):
        with pytest.raises(SimjaxError, match=f"{name}: cannot write it: it is a (symbolic )?link.*; put a copy"):
            append_file(tmp_path / name, b"x", b"")
    assert there.read_text() == "precious"


@pytest.mark.parametrize("fails", ["write", "replace", "fsync"])
def test_after_a_failure_the_old_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = tmp_path / "a.json"
    write_json({"x": 1}, path)
    before = path.read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    where = {"write": "simjax.disk.files.os.fdopen", "replace": "pathlib.Path.replace", "fsync": "simjax.disk.files.os.fsync"}[fails]
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(SimjaxError, match=r"a\.json: cannot write it: No space left on device"):
            write_file(path, "other", sync=True)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_permissions_are_those_of_the_file_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    write_file(path, "x")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SimjaxError, match=r"folder: cannot write it: Is a directory"):
        (tmp_path / "folder").mkdir()
        write_file(tmp_path / "folder", "x")
    if os.geteuid() != 0:  # whom nothing is forbidden
        path.chmod(0o400)
        with pytest.raises(SimjaxError, match="it is write-protected"):
            write_file(path, "y")


def test_formulas_are_no_cells(tmp_path: Path) -> None:
    names = ['=HYPERLINK("x")', "+1+2", "-cmd", "@sum", "\ttab", "'=quoted", "''@", "'plain", "plain", "-5", "+1e5", "", "a=b"]
    assert [text_of_cell(cell(name)) for name in names] == names
    assert [cell(name) == name for name in names] == [False] * 7 + [True] * 6
    assert cell(-5) == -5 and cell(None) is None
    write_table(pd.DataFrame({"session": names, "x": -1.5}), tmp_path / "t.csv")
    read = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, dtype=str)
    assert [text_of_cell(name) for name in read["session"]] == names
    assert not [name for name in read["session"] if name[:1] in tuple("=@\t") or name in ("+1+2", "-cmd")]
    assert set(read["x"]) == {"-1.5"}


def test_names_of_sessions_come_back_as_they_were(tmp_path: Path) -> None:
    result = two_sessions()
    names = ("=cmd|' /C calc'!A0", "'@plain")
    write_results(replace(result, sessions=replace(result.sessions, names=names)), tmp_path)
    for file in ("requests.csv", "sessions.csv"):
        cells = set(pd.read_csv(tmp_path / file, dtype=str)["session"])
        assert cells == {"'=cmd|' /C calc'!A0", "''@plain"}
    read = read_trace(tmp_path / "requests.csv", format="plain").workload.sessions
    assert read is not None and set(read.names) == set(names)


def test_a_changed_document_is_noticed(tmp_path: Path) -> None:
    text = with_digest("a: 1\nb: [2.5, µ]\n")
    file = tmp_path / "x.yaml"
    file.write_bytes(text.encode())
    assert read_document(file, "file") == {"a": 1, "b": [2.5, "µ"]}
    file.write_bytes(text.replace("\n", "\r\n").encode())  # as git may check it out
    assert read_document(file, "file")["a"] == 1
    file.write_text(text.replace("2.5", "2.6"))
    with pytest.raises(SimjaxError, match=r"x\.yaml was changed after it was written; put it back, or, .* delete its first line"):
        read_document(file, "file")
    file.write_text(text.replace("2.5", "2.6").partition("\n")[2])
    assert read_document(file, "file")["b"][0] == 2.6


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[" * 200_000, "is nested too deeply"),
        ("a.yaml", b"a: " + b"[" * 3000, "is nested too deeply"),
        ("a.json", b'{"x": 1' + b"0" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
        ("a.yaml", b"x: 2001-99-99", "is not valid YAML: month must be in 1..12"),
        ("a.yaml", b'x: !!int ""', "is not valid YAML: string index out of range"),
        ("a.yaml", b"? [a]\n: 1", "is not valid YAML"),
        ("a.yaml", b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_documents_of_any_content_get_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SimjaxError) as told:
        read_document(tmp_path / name, "file")
    assert said in str(told.value) and name in str(told.value) and "\n" not in str(told.value)
