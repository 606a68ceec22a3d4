"""Folders of sweeps as somebody would make them who knows the checksums."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simjax.explore.store.manifest import digest
from simjax.explore.store.records import records, sealed


def sign(file: Path, **changes: Any) -> None:
    """Change a `sweep.json`, with a hash that fits the changes."""
    info = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(info | {"sha256": digest(info)}))


def reseal(file: Path, changes: Mapping[bytes, bytes]) -> None:
    """Replace texts of a `results.csv`, with checksums that fit the changes."""
    header, *rows = records(file.read_bytes())
    for number, row in enumerate(rows):
        content = row.rpartition(b",")[0]
        for old, new in changes.items():
            content = content.replace(old, new)
        rows[number] = sealed(content)
    file.write_bytes(b"".join([header, *rows]))
