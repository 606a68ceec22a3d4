"""Errors of Hydra and OmegaConf, a paragraph each, as one line with a hint."""

from __future__ import annotations

import re
from dataclasses import fields

from omegaconf import DictConfig, OmegaConf

from simjax.config.sweep import read_space
from simjax.disk.paths import CONF, user_files
from simjax.errors import closest

TYPES = {"Integer": "an integer", "Float": "a number", "Boolean": "true or false"}


def explain(kind: type, overrides: list[str], error: Exception, where: str = "") -> str:
    """One line for an error of composing.

    Args:
        kind: the schema, for hints.
        overrides: the command line, to find the one that cannot be read.
        error: the exception of Hydra or OmegaConf.
        where: the part of the configuration that was being checked, when it is not the root.
    """
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = f"{error}\n{root}"
    prefix = f"{where}." if where else ""
    if match := re.search(r"Key '[^']+' (?:is not in struct|not in '\w+')\s+full_key: (\S+)", text):
        return f"{where}: unknown key '{match[1]}'; {closest(match[1], _keys(kind, ''))}" if where else unknown_option(kind, match[1])
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{match[1]}: {match[1]} is there already; leave the + out"
    if match := re.search(r"Could not override '([^']+)'\.\s*No match in the defaults list", text):
        return unknown_option(kind, match[1])
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, name = match[1].rpartition("/")
        return f"{group}={name}: there is no such option; {closest(name, group_options(group))}"
    if (unread := _unreadable(overrides, many="add -m" if "sweep" in _keys(kind, "") else "give one")) is not None:
        return unread
    said = str(root).strip().splitlines()[0]
    if match := re.search(r"full_key: (\S+)", text):
        return _wrong_value(f"{prefix}{match[1]}", said)
    return said


def unknown_option(kind: type, full: str) -> str:
    """The line for a key that a schema does not have."""
    parent, _, key = full.rpartition(".")
    if any(f.name == key for f in fields(kind)) and not parent:
        inner = ", ".join(f"{key}.{name}" for name in _keys(kind, key)[:3])
        return f"'{key}' is a group of options here; set its keys one by one: {inner}, ..."
    names = _keys(kind, parent)
    return f"unknown option '{full}'; {closest(key, names)}"


def group_options(group: str) -> list[str]:
    """The choices of a group, such as the kinds of `workload`."""
    return sorted({path.stem for path in [*(CONF / group).glob("*.yaml"), *user_files(f"{group}/*.yaml")]})


def _unreadable(overrides: list[str], many: str) -> str | None:
    """The line for the first override that Hydra's grammar refuses or that has several values, None when there is none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for override in overrides:
        shown = override.lstrip("+") if len(override) < 100 else f"{override.lstrip('+')[:96]} ..."
        several = f"{shown}: several values are a sweep: {many}; or quote a value that holds a comma or parentheses"
        try:
            if OverridesParser.create().parse_override(override).is_sweep_override():
                return several
        except HydraException as error:
            if read_space(override.partition("=")[2]) is not None:
                return several
            reason = str(error).strip().splitlines()[0].removeprefix("Error parsing override ").strip()
            return f"cannot read {override!r} ({reason}); put a value with special characters in quotes: \"key='value'\""
    return None


def _wrong_value(key: str, said: str) -> str:
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)$", said):
        return f"{key}={match[1]}: it must be {TYPES.get(match[2], match[2])}"
    if match := re.match(r"Value '(.*)' is not a valid bool", said):
        return f"{key}={match[1]}: it must be true or false"
    if match := re.match(r"Invalid type assigned: \w+ is not a subclass of \w+\. value: (.*)", said):
        return f"{key}={match[1]}: a group of options; set its keys one by one (--help lists them)"
    if re.match(r"Cannot assign \w+ to Dict|Cannot merge DictConfig with ListConfig", said):
        return f"{key}: it must be a mapping, in braces"
    if "ListConfig" in said:
        return f"{key}: it must be a list, in brackets"
    if re.match(r"field '.*' is not Optional", said):
        return f"{key}=null: it needs a value; leave the option out for none"
    return f"{key}: {said}"


def _keys(kind: type, parent: str) -> list[str]:
    node = OmegaConf.structured(kind)
    for part in parent.split(".") if parent else []:
        node = node[part] if isinstance(node, DictConfig) and part in node else None
    return [str(key) for key in node] if isinstance(node, DictConfig) else []
