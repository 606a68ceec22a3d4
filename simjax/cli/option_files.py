"""Options from files: `--config FILE`, `GROUP=FILE.yaml`, and presets in folders of the user's own.

A file becomes overrides of the options that it sets to something else than the command's defaults. They come before those of the command
line, which take precedence; a preset that the command line chooses replaces all that a file says of its group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from simjax.config.compose import FREE_MAPPINGS, GROUPS, SCHEMAS, compose_config, normal
from simjax.config.explain import unknown_option
from simjax.disk.documents import read_document
from simjax.disk.paths import CONF, in_user_folders
from simjax.errors import SimjaxError
from simjax.explore.values import format_value

_NEVER = ("out", "hydra")
"""Keys of a file that are left out: the results of a replay go to a folder of their own."""
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class _Given:
    """An option that a file sets."""

    key: str
    value: Any

    @property
    def override(self) -> str:
        """The option as an override."""
        return f"{self.key}={format_value(self.value)}"


def with_files(command: str, overrides: Sequence[str], files: Sequence[Path] = ()) -> list[str]:
    """The overrides with what files say in front of them.

    Args:
        command: a key of `SCHEMAS`.
        overrides: words `key=value`; `GROUP=FILE.yaml` and `GROUP=NAME`, for a NAME in a folder of the user's, are replaced.
        files: configuration files, such as the `config.yaml` of a run; of two that set an option the later one wins.

    Raises:
        SimjaxError: a file cannot be read, or names an unknown option.
    """
    if not files and not any(_preset_file(word) for word in overrides):
        return list(overrides)
    words, given = list[str](), list[_Given]()
    for path in files:
        chosen, options = _of_file(command, path)
        given = [x for x in given if not any(_within(x.key, group) for group in chosen)] + options
        words += [f"{group}={name}" for group, name in chosen.items()]
    words += overrides
    kept: list[str] = []
    for word in words:
        group = word.partition("=")[0]
        if group in GROUPS:
            given = [x for x in given if not _within(x.key, group)]
            kept = [other for other in kept if other.partition("=")[0] != group]
        if (path := _preset_file(word)) is None:
            kept.append(word)
            continue
        base, options = _of_preset(command, group, path)
        kept += [] if base is None else [f"{group}={base}"]
        given += options
    set_here = [normal(word).lstrip("+").partition("=")[0] for word in kept if word.partition("=")[0] not in GROUPS]
    last = {x.key: x for x in given if not any(_within(x.key, key) for key in set_here)}
    return [*(word for word in kept if word.partition("=")[0] in GROUPS), *(x.override for x in last.values()), *_others(kept)]


def _others(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.partition("=")[0] not in GROUPS]


def _within(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")


def _preset_file(word: str) -> Path | None:
    """The file that `GROUP=FILE.yaml` or `GROUP=NAME` names, None for other words."""
    group, equals, name = word.partition("=")
    name = name.strip("'\"")
    if not equals or group not in GROUPS or not name:
        return None
    return Path(name).expanduser() if name.endswith(_SUFFIXES) else in_user_folders(f"{group}/{name}.yaml")


def _of_preset(command: str, group: str, path: Path) -> tuple[str | None, list[_Given]]:
    """The preset that a file of a group begins with (None for the command's), and the options that it sets."""
    what = f"file of {group}"
    content = read_document(path, what)
    if not isinstance(content, dict):
        raise SimjaxError(f"{what} {path}: it must be a mapping of options, like the files in conf/{group}")
    base = None
    for entry in content.pop("defaults", None) or []:
        if not isinstance(entry, str):
            raise SimjaxError(f"{what} {path}: defaults: {entry}: only names of presets of {group} can stand there")
        base = base if entry in ("_self_", f"base_{group}") else entry
    if set(content) == {group} and isinstance(content[group], dict):
        content = content[group]
    if base is not None and not (CONF / group / f"{base}.yaml").is_file():
        raise SimjaxError(f"{what} {path}: defaults: {base}: there is no such preset")
    whole = {group: content}
    _refuse_unknown(command, whole, path)
    return base, [_Given(key, value) for key, value in _leaves(SCHEMAS[command], whole)]


def _of_file(command: str, path: Path) -> tuple[dict[str, str], list[_Given]]:
    """The presets that a configuration file chooses by name, and the options that it sets."""
    content = read_document(path, "configuration file")
    if not isinstance(content, dict):
        raise SimjaxError(f"configuration file {path}: it must be a mapping of options, like the config.yaml of a run")
    content = _nested({key: value for key, value in content.items() if key not in _NEVER})
    chosen = {key: str(content.pop(key)) for key in list(content) if key in GROUPS and isinstance(content[key], str)}
    if (profile := content.get("profile")) is not None and isinstance(profile, str):
        content["profile"] = {"file": profile}
    content = _refuse_unknown(command, content, path)
    defaults = compose_config(command, [])
    found = []
    for key, value in _leaves(SCHEMAS[command], content):
        default = OmegaConf.select(defaults, key)
        if value != (OmegaConf.to_container(default) if OmegaConf.is_config(default) else default):
            found.append(_Given(key, value))
    return chosen, found


def _nested(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Options with dotted names as mappings within mappings."""
    whole: dict[str, Any] = {}
    for key, value in content.items():
        *parents, last = str(key).split(".") if str(key) not in FREE_MAPPINGS else (*str(key).split("."),)
        node = whole
        for parent in parents:
            node = node.setdefault(parent, {})
        if isinstance(node.get(last), dict) and isinstance(value, dict):
            node[last] |= value
        else:
            node[last] = dict(value) if isinstance(value, dict) else value
    return whole


def _refuse_unknown(command: str, content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content without what is left at its default and belongs to other commands; raises for other keys of no schema."""

    def walk(kinds: Sequence[type], node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        kept = {}
        for key, value in node.items():
            full = f"{prefix}{key}"
            own, *others = [_field(kind, key) for kind in kinds]
            if own is None:
                if any(other is not None and _is_default(other, value) for other in others):
                    continue
                raise SimjaxError(f"configuration file {path}: {unknown_option(SCHEMAS[command], full)}")
            inner = [x if isinstance(x, type) else None for x in (own, *others)]
            if isinstance(own, type) and full not in FREE_MAPPINGS:
                if value is None:  # a section of comments alone
                    continue
                if not isinstance(value, dict):
                    raise SimjaxError(f"configuration file {path}: {full}={value}: it must be a mapping of options")
                kept[key] = walk([x for x in inner if x is not None], value, f"{full}.")
            else:
                kept[key] = value
        return kept

    others = [kind for name, kind in SCHEMAS.items() if name != command]
    return walk([SCHEMAS[command], *others], content, "")


def _field(kind: type, name: str) -> Any:
    """The dataclass of a section, the default of an option in a list, None where there is no such field."""
    for one in fields(kind):
        if one.name == name:
            made = kind.__dataclass_fields__[name]
            default = made.default_factory() if callable(made.default_factory) else made.default  # type: ignore[operator]
            return type(default) if is_dataclass(default) else [default]
    return None


def _is_default(field: Any, value: Any) -> bool:
    """Whether the value of a file is the default of a field found by `_field`."""
    if isinstance(field, list):
        return value == field[0]
    return isinstance(value, dict) and all(
        (inner := _field(field, str(name))) is not None and _is_default(inner, own) for name, own in value.items()
    )


def _leaves(kind: type, content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options and their values, those with keys of their own as a whole."""
    for key, value in content.items():
        full, inner = f"{prefix}{key}", _field(kind, key)
        if isinstance(inner, type) and isinstance(value, dict | DictConfig):
            yield from _leaves(inner, value, f"{full}.")
        else:
            yield full, value
