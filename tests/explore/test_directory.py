"""Where the files of a sweep lie, and what is said of going on with it."""

from pathlib import Path

import pytest

from simjax.errors import SimjaxError
from simjax.explore.store.directory import check_resume, files_of, resume_options, shard_directory


@pytest.fixture(autouse=True)
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep in one part, one of which two of three parts were begun, and one of many parts."""
    monkeypatch.chdir(tmp_path)
    for name in ("s", "p/shard-1-of-3", "p/shard-3-of-3", *(f"many/shard-{part}-of-100" for part in (2, 10, 100))):
        Path(name).mkdir(parents=True)
        (Path(name) / "sweep.json").write_text("{}")


def test_files_are_those_of_the_directory_and_its_parts_in_order() -> None:
    (Path("p") / "shard-x-of-3").mkdir()
    (Path("p") / "shard-x-of-3" / "sweep.json").touch()
    assert files_of(Path("s"), "sweep.json") == [Path("s/sweep.json")]
    assert [file.parent.name for file in files_of(Path("p"), "sweep.json")] == ["shard-1-of-3", "shard-3-of-3"]
    assert [file.parent.name for file in files_of(Path("many"), "sweep.json")] == [f"shard-{part}-of-100" for part in (2, 10, 100)]
    assert shard_directory("p", "2/3") == Path("p/shard-2-of-3")
    assert shard_directory("p", None) == Path("p")


def test_the_words_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resume_options(Path("s")) == "sweep.resume=s"
    assert resume_options(Path("p/shard-1-of-3")) == "sweep.resume=p sweep.shard=1/3"
    assert resume_options(Path("p/shard-2-of-3")) == "sweep.resume=p sweep.shard=2/3"
    assert resume_options(Path("p")) == "-m sweep.resume=p sweep.shard=1/3,2/3,3/3"
    assert resume_options(Path("many")) == "-m sweep.resume=many sweep.shard=1/100,2/100,...,100/100"
    here = Path("p/shard-1-of-3").resolve()
    monkeypatch.chdir(here)
    assert resume_options(Path()) == f"sweep.resume={here.parent} sweep.shard=1/3"


@pytest.mark.parametrize(("name", "shard"), [("s", None), ("p", "1/3"), ("p", "2/3"), ("many", "2/100")])
def test_what_can_go_on(name: str, shard: str | None) -> None:
    check_resume(name, shard)


@pytest.mark.parametrize(
    ("name", "shard", "said"),
    [
        ("none", None, "none: no such directory"),
        (".", "1/3", ".: not a sweep"),
        ("p", None, "p: it holds parts of a sweep (1/3, 3/3); resume all with -m sweep.resume=p sweep.shard=1/3,2/3,3/3"),
        ("p", "2/4", "p: it holds parts of a sweep (1/3, 3/3); resume all with -m sweep.resume=p sweep.shard=1/3,2/3,3/3"),
        ("s", "2/4", "s: this sweep has no parts; leave out sweep.shard=2/4"),
        ("p/shard-1-of-3", None, "p/shard-1-of-3: one part of a sweep; resume it with sweep.resume=p sweep.shard=1/3"),
        ("p/shard-1-of-3", "1/3", "p/shard-1-of-3: one part of a sweep; resume it with sweep.resume=p sweep.shard=1/3"),
    ],
)
def test_what_cannot(name: str, shard: str | None, said: str) -> None:
    with pytest.raises(SimjaxError) as told:
        check_resume(name, shard)
    assert str(told.value).startswith(said)
