"""Power logs: samples of a meter as nvidia-smi, ipmitool, DCGM or Prometheus write them, or as plain columns of a CSV file.

Every reader gives seconds from the log's first sample and watts, in order of time; several devices in a log are added up at each time, and
samples that a device has at one time, where times are rounded, are averaged.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from simjax.errors import SimjaxError

_WATTS = ("power_w", "power.draw", "power.draw.instant", "power_draw", "watts", "wall_w", "power")
_METRICS = ("dcgm_fi_dev_power_usage", "value")
_TIMES = ("t_s", "timestamp", "time", "time_s", "epoch")
_DEVICES = ("index", "gpu_index", "gpu", "uuid")
_IPMI = re.compile(
    r"(?:Instantaneous power reading|Total Power|Power Consumption|Pwr Consumption)\s*[:|]\s*(?P<watts>[\d.]+)", re.IGNORECASE
)
_STAMP = re.compile(r"\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?")
_STAMPS = tuple(f"%Y{d}%m{d}%d{t}%H:%M:%S{f}" for d, t in (("/", " "), ("-", "T"), ("-", " ")) for f in (".%f", ""))
FEWEST = 2


@dataclass(frozen=True)
class PowerLog:
    """Samples of a meter.

    Attributes:
        t_s: float64[S], seconds from the first sample, rising.
        watts: float64[S].
        kind: format that it was read as.
    """

    t_s: np.ndarray
    watts: np.ndarray
    kind: str

    def by_second(self, seconds: int, start_s: float = 0.0) -> np.ndarray:
        """Means of the samples of each second from `start_s` on, float64[seconds]; NaN where there is none."""
        at = np.floor(self.t_s - start_s).astype(int)
        there = (at >= 0) & (at < seconds)
        counts, sums = np.bincount(at[there], minlength=seconds), np.bincount(at[there], self.watts[there], minlength=seconds)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def read_power_log(path: Path) -> PowerLog:
    """The samples of a log, whose format is found by its content.

    Raises:
        SimjaxError: it cannot be read, or holds no samples of power with times.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SimjaxError(f"cannot read power log {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SimjaxError(f"cannot read power log {path}: not a text file") from error
    samples, kind = _ipmi(text) if _IPMI.search(text) else _table(text, path)
    if len({time for time, _, _ in samples}) < FEWEST:
        raise SimjaxError(f"power log {path}: it has {len(samples)} samples of power with a time; it needs at least {FEWEST}")
    of_device: dict[tuple[float, str], list[float]] = {}
    for time, watts, device in samples:
        of_device.setdefault((time, device), []).append(watts)
    times, place = np.unique([time for time, _ in of_device], return_inverse=True)
    return PowerLog(times - times[0], np.bincount(place, [np.mean(x) for x in of_device.values()]), kind)


Sample = tuple[float, float, str]
"""Seconds, watts, and the device, empty where the log names none."""


def _ipmi(text: str) -> tuple[list[Sample], str]:
    """Readings of `ipmitool dcmi power reading` or `sdr`, each after the line with its time; without times one a second."""
    samples: list[Sample] = []
    stamp: float | None = None
    for line in text.splitlines():
        found, when = _IPMI.search(line), _STAMP.search(line)
        stamp = _seconds(when[0]) if when else stamp
        if found:
            samples.append((float(len(samples)) if stamp is None else stamp, float(found["watts"]), ""))
    return samples, "ipmitool"


def _table(text: str, path: Path) -> tuple[list[Sample], str]:
    """Rows of a CSV file with a column of times and one of watts."""
    rows = list(csv.reader(text.splitlines()))
    names = [_plain(name) for name in rows[0]] if rows else []
    time = _column(names, _TIMES, path, "times")
    watts, kind = _watts_column(names, path)
    device = next((names.index(x) for x in _DEVICES if x in names), None)
    needed, samples = max(time, watts), []
    for number, row in enumerate(rows[1:], start=2):
        if not "".join(row).strip():
            continue
        try:
            if len(row) <= needed:
                raise ValueError("too few columns")
            if _missing(row[watts]):
                continue
            samples.append((_seconds(row[time].strip()), float(row[watts].replace("W", "").strip()), "" if device is None else row[device]))
        except ValueError as error:
            raise SimjaxError(f"power log {path}, line {number}: {error}") from None
    return _together(samples), kind


def _together(samples: Sequence[Sample]) -> list[Sample]:
    """Samples of all devices at one time: those of a round, in which each device has one, get the time of its first."""
    found: list[Sample] = []
    begun, seen = 0.0, set[str]()
    for time, watts, device in samples:
        if not device or device in seen or not seen:
            begun, seen = time, set()
        seen.add(device)
        found.append((begun, watts, device))
    return found


def _watts_column(names: Sequence[str], path: Path) -> tuple[int, str]:
    for wanted, kind in ((_METRICS[:1], "dcgm"), (_WATTS, "nvidia-smi" if any(x.startswith("power.draw") for x in names) else "plain")):
        at = [k for k, name in enumerate(names) if name in wanted]
        if at:
            return at[0], kind
    if "value" in names:
        return names.index("value"), "prometheus"
    raise SimjaxError(f"power log {path}: no column of watts; it has {', '.join(names) or 'none'}, and power_w or power.draw would be one")


def _column(names: Sequence[str], wanted: Sequence[str], path: Path, what: str) -> int:
    found = next((names.index(name) for name in wanted if name in names), None)
    if found is None:
        raise SimjaxError(f"power log {path}: no column of {what}; it has {', '.join(names) or 'none'}, and {wanted[0]} would be one")
    return found


def _plain(name: str) -> str:
    """A column's name without its unit and quotes, in lower case."""
    return re.sub(r"\s*\[.*\]", "", name).strip().strip('"').lower()


def _missing(value: str) -> bool:
    return value.strip().lower() in ("", "nan", "n/a", "[n/a]", "[not supported]")


def _seconds(text: str) -> float:
    """Seconds of a time: a number (of milliseconds or more since 1970, if it is that large), or a date and time.

    Raises:
        ValueError: it is neither.
    """
    try:
        value = float(text)
        return value / 1e3 if value > 1e11 else value
    except ValueError:
        pass
    parsers: list[Callable[[str], datetime]] = [lambda x, form=form: datetime.strptime(x, form) for form in _STAMPS]
    for parse in parsers:
        try:
            return parse(text.removesuffix("Z")).timestamp()
        except ValueError:
            continue
    raise ValueError(f"{text!r} is no time: seconds, or 2026-01-31 12:00:00")
