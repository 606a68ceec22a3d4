"""Reading the JSON and YAML files that users hand over, with mistakes told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from simjax.errors import SimjaxError


def read_document(path: Path, what: str) -> Any:
    """What a JSON file (by its suffix) or a YAML file holds; `what` names the kind of file in messages, such as "device file".

    Raises:
        SimjaxError: the file cannot be read, is not text, or is not valid.
    """
    is_json = path.suffix == ".json"
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if is_json else yaml.safe_load(text)
    except OSError as error:
        raise SimjaxError(f"cannot read {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SimjaxError(f"cannot read {what} {path}: not a text file") from error
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise SimjaxError(f"{what} {path} is not valid {'JSON' if is_json else 'YAML'}: {' '.join(str(error).split())}") from error
