"""Reader for the JSON and YAML files of users, with one-line errors, and the checksums of those that simjax writes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import yaml

from simjax.errors import SimjaxError

Reader = TypeVar("Reader", bound=Callable[..., Any])

_DIGEST = re.compile(r"# sha256 of the lines below, to be deleted when they are edited: ([0-9a-f]{64})\n")


def read_document(path: Path, what: str) -> Any:
    """The content of a JSON file (recognised by its suffix) or a YAML file.

    Args:
        path: the file.
        what: the kind of file in messages, such as "device file".

    Raises:
        SimjaxError: the file cannot be read, is not text, is not valid, or is not what its checksum says.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SimjaxError(f"cannot read {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SimjaxError(f"cannot read {what} {path}: not a text file") from error
    _check_digest(text, f"{what} {path}")
    return parse_json(text, f"{what} {path}") if path.suffix == ".json" else parse_yaml(text, f"{what} {path}")


def parse_json(text: str | bytes, what: str) -> Any:
    """The content of a JSON text; `what` names it in messages.

    Raises:
        SimjaxError: it is not valid JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise SimjaxError(f"{what} is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, text that is no UTF-8, or an integer of thousands of digits
        raise SimjaxError(f"{what} is not valid JSON: {' '.join(str(error).split())}") from error


def parse_yaml(text: str, what: str) -> Any:
    """The content of a YAML text; `what` names it in messages.

    Raises:
        SimjaxError: it is not valid YAML, or nested too deeply.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise SimjaxError(f"{what} is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:  # PyYAML's own of tags, dates and huge integers
        raise SimjaxError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error


def shipped_yaml(path: Path) -> Any:
    """The content of a YAML file of simjax itself, which is valid, by libyaml where PyYAML has it: a tenth of the time."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def with_digest(text: str) -> str:
    """A YAML text after a comment with its checksum, by which `read_document` notices a change.

    Who edits the file on purpose deletes the comment; a file without one is taken as it is.
    """
    return f"# sha256 of the lines below, to be deleted when they are edited: {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _check_digest(text: str, what: str) -> None:
    said = _DIGEST.match(text)
    if said is not None and with_digest(text[said.end() :]) != text:
        raise SimjaxError(f"{what} was changed after it was written; put it back, or, if that was meant, delete its first line")


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
