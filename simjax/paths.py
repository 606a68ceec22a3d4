"""Directories of the shipped configuration and profiles: next to the modules if installed, in the checkout if editable."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


CONF = _shipped("conf")
PROFILES = _shipped("profiles")
