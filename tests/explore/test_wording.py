"""What messages are made of."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from simjax.explore.values import option
from simjax.text import counted, ranges

NAMES = [
    "s",
    "a/b-c_d.e",
    "my dir",
    "it's",
    'a "b"',
    'a\'b"c\\"d',
    "a,b [c]=d",
    "2026-11-25",
    "123",
    "1e5",
    "null",
    "$HOME",
    "ünï/世界",
    "back\\",
]


def test_counts() -> None:
    assert [counted(n, "points") for n in (0, 1, 2, 2048)] == ["0 points", "1 point", "2 points", "2,048 points"]


def test_ranges() -> None:
    assert ranges([]) == ""
    assert ranges([5]) == "5"
    assert ranges({3, 0, 1, 2, 9, 11, 12}) == "0-3, 9, 11-12"
    assert ranges(range(0, 40, 2)) == "0, 2, 4, 6, 8, 10, 12, 14, and 12 more ranges"


@pytest.mark.parametrize("name", NAMES)
def test_an_option_can_be_pasted(name: str) -> None:
    """Through the shell, and then through Hydra's grammar, comes what was meant."""
    (word,) = shlex.split(option("sweep.resume", name))
    override = OverridesParser.create().parse_override(word)
    value = override.value()
    assert override.key_or_group == "sweep.resume"
    assert getattr(value, "text", value) == name


def test_plain_names_stay_plain() -> None:
    assert option("sweep.resume", "outputs/2026-11-25_09-30-00_sweep") == "sweep.resume=outputs/2026-11-25_09-30-00_sweep"
