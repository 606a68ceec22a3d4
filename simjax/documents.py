"""Reader for the JSON and YAML files of users, with one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import yaml

from simjax.errors import SimjaxError

Reader = TypeVar("Reader", bound=Callable[..., Any])


def read_document(path: Path, what: str) -> Any:
    """The content of a JSON file (recognised by its suffix) or a YAML file.

    Args:
        path: the file.
        what: the kind of file in messages, such as "device file".

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


def once_per_file(files: int) -> Callable[[Reader], Reader]:
    """Decorator for a reader of a file (a `Path`, its first argument) that caches the last `files` results until their files change.

    A sweep reads the same few files thousands of times. Results are shared, so callers must not change them.
    """

    def decorate(read: Reader) -> Reader:
        @lru_cache(maxsize=files)
        def once(path: Path, state: tuple[int, int], /, *args: Any) -> Any:
            return read(path, *args)

        @wraps(read)
        def current(path: Path, *args: Any) -> Any:
            try:
                found = path.stat()
            except OSError:
                return read(path, *args)  # raises the error to report
            return once(path, (found.st_mtime_ns, found.st_size), *args)

        return current  # pyright: ignore[reportReturnType]

    return decorate
