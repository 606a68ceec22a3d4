"""Which tests run, and in which order."""

from pathlib import Path

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]


def test_the_longest_files_are_there() -> None:
    assert len(set(LONGEST)) == len(LONGEST)
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []


def test_slow_tests_are_listed_with_what_they_cover() -> None:
    said = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "@pytest.mark.slow\n" in path.read_text(encoding="utf-8")]
    assert marked
    for path in marked:
        for part in path.read_text(encoding="utf-8").split("@pytest.mark.slow\n")[1:]:
            name = part[part.index("def ") + 4 : part.index("(", part.index("def "))]
            assert f"`{path.relative_to(ROOT / 'tests').as_posix()}::{name}`" in said, f"tests/README.md does not say what {name} covers"
