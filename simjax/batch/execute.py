"""Running the chunks of a plan on the local devices, several at once, and turning their results into rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from simjax.batch.design import Design
from simjax.batch.groups import Group, make_groups
from simjax.batch.workers import Device, Workers
from simjax.engine.accounting.totals import Overflow
from simjax.engine.batch import compiled_batch
from simjax.engine.host.batch import Batch, make_batch
from simjax.engine.host.collect import batch_results
from simjax.engine.host.lower import with_larger_caches, with_larger_tiers, with_more_rows
from simjax.engine.host.result import Result
from simjax.engine.params import ClusterParams
from simjax.engine.state import ClusterState
from simjax.errors import SimjaxError, in_one_line, is_out_of_memory, log_traceback, value_or_error
from simjax.metrics.catalog import CATALOG, Catalog
from simjax.metrics.rows import result_rows
from simjax.validity.left import LeftRanges

Row: TypeAlias = dict[str, Any]

STRIDE = 32  # ticks between two times that an accelerator reports whether its batch has finished


def run_designs(
    designs: dict[int, Design],
    groups: Sequence[Group],
    workers: Workers,
    width: int | None = None,
    left: LeftRanges | None = None,
    catalog: Catalog = CATALOG,
    kept: dict[int, Result] | None = None,
) -> Iterator[list[Row]]:
    """Rows of the designs as they finish: point, status, reason and the metrics of the catalogue.

    Designs that turn out to need more slots than their group has are run again, with all that their limits allow; and those that have more
    requests on their way between instances than was expected, with more room for them.

    Args:
        designs: the designs by the number of their point.
        groups: designs that run together.
        workers: devices to run on.
        width: designs side by side, for those that are run again; None for what suits the devices.
        left: record of the calibrated ranges that the designs leave; it is complete when the iterator has ended.
        catalog: the metrics of a row.
        kept: takes the results themselves by the number of their point, where requests one by one are of interest; None for none.
    """
    into = _Findings(LeftRanges() if left is None else left, catalog, kept, {})
    again, seen, roomy = dict(designs), set[int](), False
    while again:
        into = into._replace(short={})
        for rows in _run_groups(groups, again, workers, into):
            seen.update(row["point"] for row in rows)
            yield rows
        roomy = roomy or any(needs & Overflow.SLOTS for needs in into.short.values())
        again = {point: design for point, needs in into.short.items() if (design := _with_room(again[point], needs)) is not None}
        groups = make_groups(again, workers, width, roomy) if again else ()
    if lost := [failed(point, "it has no result: please report this") for point in designs if point not in seen]:
        yield lost


class _Findings(NamedTuple):
    """What runs leave besides their rows: as in `run_designs`; and `short`, what each design needs more of whose buffers were too small."""

    left: LeftRanges
    catalog: Catalog
    kept: dict[int, Result] | None
    short: dict[int, Overflow]


def _with_room(design: Design, needs: Overflow) -> Design | None:
    """The design with larger prefix caches or KV tiers, or room for more hand-overs, if it needs that; None if it can have no more."""
    if needs & Overflow.CACHES:
        design = replace(design, lowered=with_larger_caches(design.lowered))
    if needs & Overflow.TIERS:
        design = replace(design, lowered=with_larger_tiers(design.lowered))
    if not needs & Overflow.HANDOVERS:
        return design
    lowered = with_more_rows(design.lowered)
    return None if lowered is None else replace(design, lowered=lowered)


def _run_groups(groups: Sequence[Group], designs: dict[int, Design], workers: Workers, into: _Findings) -> Iterator[list[Row]]:
    """Rows of chunks as they finish; designs whose buffers were too small are entered in `into.short` instead, with what they need more of.

    A chunk that does not fit the memory is run in halves. Any other failure of a chunk is the reason in its rows, of status "error".
    """
    free: SimpleQueue[Device] = SimpleQueue()
    for device in workers.devices * workers.each:
        free.put(device)

    def on_a_device(batches: Batches, chunk: Sequence[int]) -> list[Row]:
        device = free.get()
        try:
            return _rows_or_reasons(batches, chunk, device)
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(workers.count, thread_name_prefix="simjax")
    waiting: set[Future[list[Row]]] = set()
    try:
        for batches, chunk in _in_order(groups, designs, workers, into):
            waiting.add(pool.submit(on_a_device, batches, chunk))
            if len(waiting) >= 2 * workers.count:  # a few chunks ahead and no more: rows are written before many others are made
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(
    groups: Sequence[Group], designs: dict[int, Design], workers: Workers, into: _Findings
) -> Iterator[tuple[Batches, Sequence[int]]]:
    """All chunks; first those that compile a program, as many groups at a time as batches run at once, so that each compiles its own."""
    for i in range(0, len(groups), workers.count):
        together = [Batches(group, designs, into) for group in groups[i : i + workers.count]]
        yield from ((batches, batches.group.chunks[0]) for batches in together)
        yield from ((batches, chunk) for batches in together for chunk in batches.group.chunks[1:])


def _rows_or_reasons(batches: Batches, points: Sequence[int], device: Device) -> list[Row]:
    try:
        return batches.run(points, device)
    except Exception as error:
        log_traceback(error)
        if not is_out_of_memory(error):
            return [failed(point, in_one_line(error)) for point in points]
    if len(points) == 1:
        return [failed(points[0], "out of memory; simulate fewer requests or instances")]
    middle = (len(points) + 1) // 2
    batches.width = min(batches.width, middle)  # later chunks are cut into parts of this size from the start
    return _rows_or_reasons(batches, points[:middle], device) + _rows_or_reasons(batches, points[middle:], device)


class Batches:
    """The batches of a group: its table of workloads, made once and put on each device once, and its program.

    Attributes:
        group: the group that is run.
        width: designs side by side; fewer than planned once those did not fit the memory.
    """

    def __init__(self, group: Group, designs: dict[int, Design], into: _Findings) -> None:
        self.group, self.width, self._designs, self._into = group, group.width, designs, into
        self._whole: tuple[Batch, dict[int, int]] | None = None
        self._on: dict[Device, Any] = {}
        self._stacking = Lock()

    def run(self, points: Sequence[int], device: Device) -> list[Row]:
        """Rows of some of the group's points."""
        rows: list[Row] = []
        width = self.width  # another thread may reduce it meanwhile
        for i in range(0, len(points), width):
            part = points[i : i + width]
            with jax.enable_x64(True):
                batch, params = self._batch([*part, *[part[-1]] * (width - len(part))], device)
                stride = 1 if device.platform == "cpu" else STRIDE
                program = compiled_batch(batch.shape, stride, params, self.group.ticks)
                limit = min(self._designs[part[0]].max_ticks, 2**31 - 1 - stride)
                state, going = jax.block_until_ready(program(params, jax.device_put(np.int32(limit), device)))
            rows += self._rows(part, batch, state, np.asarray(going))
        return rows

    def _batch(self, points: Sequence[int], device: Device) -> tuple[Batch, ClusterParams]:
        """The designs of these points as a batch on the host, and its arrays on the device."""
        if not self.group.shared_table:
            batch = make_batch([self._designs[point].lowered for point in points], self.group.shape, workloads=len(points))
            return batch, jax.device_put(batch.params, device)
        with self._stacking:
            if self._whole is None:
                members = [point for chunk in self.group.chunks for point in chunk]
                whole = make_batch([self._designs[point].lowered for point in members], self.group.shape)
                self._whole = whole, {point: place for place, point in enumerate(members)}
            whole, place = self._whole
            if device not in self._on:
                self._on[device] = jax.device_put((whole.params.requests, whole.params.step_time), device)
        mine = replace(whole.params, requests=None, step_time=None)  # pyright: ignore[reportArgumentType]
        chosen = np.array([place[point] for point in points])
        mine = jax.tree.map(lambda x: x[chosen], mine)
        requests, step_time = self._on[device]
        host = replace(mine, requests=whole.params.requests, step_time=whole.params.step_time)
        return Batch(whole.shape, host), replace(jax.device_put(mine, device), requests=requests, step_time=step_time)

    def _rows(self, points: Sequence[int], batch: Batch, state: ClusterState, going: np.ndarray) -> list[Row]:
        """Rows of the points, the first designs of the batch, without those whose buffers were too small."""
        overflow = np.asarray(state.overflow)
        enough = {b: point for b, point in enumerate(points) if not overflow[b]}
        self._into.short.update({point: Overflow(int(overflow[b])) for b, point in enumerate(points) if overflow[b]})

        def rows(some: Mapping[int, int]) -> list[Row]:
            designs = [self._designs[point] for point in some.values()]
            results = batch_results(batch, {b: self._designs[point].lowered for b, point in some.items()}, state, going)
            facts = [{name: getattr(x, name) for name in ("pools", "tiers", "plant", "rates")} for x in designs]
            results = [replace(x, **own) if any(own.values()) else x for x, own in zip(results, facts, strict=True)]
            slos, gpus, windows = ([getattr(x, name) for x in designs] for name in ("slo", "gpus", "window"))
            found = result_rows(results, slos, gpus, catalog=self._into.catalog, windows=windows)
            for point, design, result in zip(some.values(), designs, results, strict=True):
                if design.calibrated:
                    self._into.left.add(design.calibrated, result, point)
                if self._into.kept is not None:
                    self._into.kept[point] = result
            statuses = [result.status.name.lower() for result in results]
            return [{"point": p, "status": s, "reason": "", **row} for p, s, row in zip(some.values(), statuses, found, strict=True)]

        try:
            return rows(enough)
        except Exception:  # the fault of one design: the others get their rows
            each = [(point, value_or_error(lambda b=b, point=point: rows({b: point})[0])) for b, point in enough.items()]
            return [failed(point, str(row)) if isinstance(row, SimjaxError) else row for point, row in each]


def failed(point: int, reason: str) -> Row:
    """The row of a point whose simulation failed, for a reason that another attempt may not meet."""
    return {"point": point, "status": "error", "reason": reason}
