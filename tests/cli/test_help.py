"""`simjax COMMAND --help` lists the options of the command's schema: every one of them once, and nothing else."""

import re
from collections import Counter
from dataclasses import is_dataclass

import pytest

from simjax.cli.help import text
from simjax.cli.help.choices import _CHOICES, choices, presets
from simjax.cli.help.listing import blocks
from simjax.cli.help.pages import PAGES
from simjax.cli.main import COMMANDS
from simjax.config.calibrate import ParameterConfig
from simjax.config.cluster import GroupConfig
from simjax.config.compose import GROUPS, SCHEMAS, compose_config
from simjax.config.explain import group_options
from simjax.options.option import Option, options, walk

FIRST_SCREEN = 50


def listed(command: str) -> list[str]:
    """The options that a command's help lists; `a.*` stands for the keys below a, which are those of another group."""
    found: list[str] = []
    known = {one.key: one for one in walk(SCHEMAS[command])}
    for key in re.findall(r"^  ([\w.*]+)=", "\n".join(blocks(command, PAGES[command].common)), flags=re.MULTILINE):
        section = known.get(key.removesuffix(".*"))
        if key.endswith(".*") and section is not None and not isinstance(section, Option):
            found += [f"{section.key}.{one.key}" for one in options(section.kind)]
        else:
            found.append(key)
    return found


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_option_is_listed_once_and_nothing_else(command: str) -> None:
    wanted = [one.key for one in options(SCHEMAS[command])]
    assert len(wanted) == len(set(wanted))
    assert Counter(listed(command)) == Counter([*wanted, *presets(command)])


@pytest.mark.parametrize("command", SCHEMAS)
def test_keys_that_stand_for_others_are_listed_in_full_elsewhere(command: str) -> None:
    said = text(command)
    for line, other in re.findall(r"^  ([\w.]+)\.\*=(?s:.*?) the\s+keys\s+are\s+those\s+of\s+([\w.]+)$", said, flags=re.MULTILINE):
        assert line != other
        assert re.search(rf"^{re.escape(other)}: ", said, flags=re.MULTILINE)
    assert said.count(".*=") == len(re.findall(r"keys\s+are\s+those\s+of\s+", said))


@pytest.mark.parametrize("command", SCHEMAS)
def test_defaults_are_those_of_the_configuration(command: str) -> None:
    """An option is listed with the value that a run without it has; one that is unset with a word in capitals, brackets or choices."""
    said = text(command)
    config = compose_config(command, [])
    from omegaconf import OmegaConf

    for one in options(SCHEMAS[command]):
        shown = re.search(rf"^  {re.escape(one.key)}=(\S+)", said, flags=re.MULTILINE)
        value = OmegaConf.select(config, one.key)
        if shown is None:
            continue
        if value is None or value in ([], {}):
            assert re.fullmatch(r"[A-Z./a-z]*[A-Z][A-Z./a-z]*|true\|false|\[.*\]|\{.*\}", shown[1]), shown[0]
        elif isinstance(value, bool):
            assert shown[1] == str(value).lower()
        elif isinstance(value, int | float):
            assert float(shown[1]) == value
        else:
            assert shown[1] == str(value).replace("'", "")


@pytest.mark.parametrize("kind", [*SCHEMAS.values(), *GROUPS.values(), GroupConfig, ParameterConfig])
def test_every_option_says_what_it_is_in_a_line(kind: type) -> None:
    assert is_dataclass(kind)
    for one in walk(kind):
        assert 5 < len(one.words) < 200, one.key
        assert not one.words.endswith(".")
        assert not re.match(r"(?i)(of|that of|what|which)\b", one.words), f"{one.key}: {one.words}"


@pytest.mark.parametrize("command", SCHEMAS)
def test_choices_are_shown(command: str) -> None:
    said = text(command)
    for one in options(SCHEMAS[command]):
        entry = re.search(rf"^  {re.escape(one.key)}=.*\n(?: {{7}}.*\n)*", said, flags=re.MULTILINE)
        if entry is not None:
            missing = set(choices(command, one.key)) - set(re.split(r"[\s|]+", entry[0]))
            assert not missing, f"{one.key}: {missing} are not shown"
    for group in presets(command):
        assert all(re.search(rf"^      {name} ", said, flags=re.MULTILINE) for name in group_options(group))


def test_choices_belong_to_options() -> None:
    keys = {f"{command}: {one.key}" for command, kind in SCHEMAS.items() for one in options(kind)}
    for key in _CHOICES:
        assert key in keys or any(known.endswith(f": {key}") for known in keys), f"no command has the option {key}"


def test_pages_are_those_of_the_commands() -> None:
    assert {command.config: " ".join(words) for words, command in COMMANDS.items()} == {key: page.name for key, page in PAGES.items()}
    for key, page in PAGES.items():
        known = [one.key for one in options(SCHEMAS[key])]
        assert [name for name in page.common if name not in known] == []


def test_the_first_screen_has_the_options_that_people_use() -> None:
    first = "\n".join(text("run").splitlines()[:FIRST_SCREEN])
    for key in ("model", "device", "cluster.instances", "workload.rate", "scheduler.max_num_seqs", "slo.ttft_s", "out"):
        assert f"\n  {key}=" in first
    assert len(first) < len(text("run")) / 3
