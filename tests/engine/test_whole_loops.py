"""Loops that are compiled whole: the option reaches XLA, and changes no bit of a result."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.engine.control import whole_loops
from simjax.engine.control.whole_loops import loops_are_whole, make_loops_whole
from simjax.engine.programs import Effort
from simjax.engine.simulate import compiled_advance, compiled_start, effort_for
from tests.engine.scenario import Limits, RouterPolicy, Scenario
from tests.engine.test_engine import busy_scenario
from tests.quickly import OF_USERS, efforts

THRESHOLD = "xla_cpu_small_while_loop_byte_threshold"


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process in which XLA has not read its options."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(whole_loops, "_has_started", lambda: False)
    return monkeypatch


@pytest.mark.parametrize(
    "before, after",
    [
        ("", f"--xla_backend_extra_options={THRESHOLD}="),
        ("--xla_dump_to=/x", f"--xla_dump_to=/x --xla_backend_extra_options={THRESHOLD}="),
        ("--xla_backend_extra_options=a=b --xla_dump_to=/x", f"--xla_dump_to=/x --xla_backend_extra_options=a=b,{THRESHOLD}="),
    ],
)
def test_flags_of_the_user_stay(unstarted: pytest.MonkeyPatch, before: str, after: str):
    unstarted.setenv("XLA_FLAGS", before)
    assert not loops_are_whole()
    assert make_loops_whole() and loops_are_whole()
    assert os.environ["XLA_FLAGS"].rpartition("=")[0] + "=" == after


def test_a_threshold_of_the_user_stays(unstarted: pytest.MonkeyPatch):
    flags = f"--xla_backend_extra_options={THRESHOLD}=77"
    unstarted.setenv("XLA_FLAGS", flags)
    assert make_loops_whole() and os.environ["XLA_FLAGS"] == flags


def test_a_process_with_a_backend_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    jax.devices()
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert not make_loops_whole() and "XLA_FLAGS" not in os.environ


@efforts(OF_USERS)
def test_efforts(unstarted: pytest.MonkeyPatch):
    shape = dataclasses.replace(busy_scenario().shape(), requests=512)
    assert Effort.FULL.options("cpu") == {} and effort_for(shape) is Effort.MEDIUM
    make_loops_whole()
    assert Effort.FULL.options("cpu") == Effort.MEDIUM.options("cpu") and effort_for(shape) is Effort.BRIEF
    assert effort_for(dataclasses.replace(shape, requests=1024)) is Effort.MEDIUM


def routed() -> Scenario:
    """Two ranks that preempt behind a live router."""
    return busy_scenario(limits=(busy_scenario().limits[0],) * 2, router=RouterPolicy.LEAST_LOADED)


def caching() -> Scenario:
    """One rank with a prefix cache that evicts, and prompts with equal beginnings."""
    base, rng = busy_scenario(), np.random.default_rng(5)
    prompt = rng.integers(2, 30, 28)
    begun = [rng.integers(0, 9, 30) for _ in range(4)]
    contents = tuple(
        np.concatenate([begun[r % 4][: p - 1], rng.integers(0, 9, 1 + o)]) for r, (p, o) in enumerate(zip(prompt, base.output, strict=True))
    )
    limits = Limits(num_blocks=40, block_size=4, max_num_seqs=6, max_num_batched_tokens=24, enable_prefix_caching=True)
    return dataclasses.replace(base, limits=(limits,), prompt=prompt, contents=contents)


def digests() -> list[str]:
    """Of each scenario: whether the loop of ticks is outside the entry of its program, and all that a run leaves."""
    found = []
    for scenario in (routed(), caching()):
        shape = scenario.shape()
        with jax.enable_x64(True):
            params = jax.tree.map(jnp.asarray, scenario.params())
            state = compiled_start(shape, params)(params)
            program = compiled_advance(shape, params, state)
            chunk = jax.device_get(program(params, state, np.asarray(10**6, np.int32)))
        assert int(chunk.state.num_finished) == len(scenario.prompt)
        data = hashlib.sha256()
        for x in jax.tree.leaves(chunk):
            data.update(np.asarray(x).tobytes())
        entry = program.as_text().partition("\nENTRY ")[2]
        found.append(f"{' while(' not in entry} {data.hexdigest()}")
    return found


def test_whole_loops_give_the_same_bits():
    """In a process of its own, where a live router and a prefix cache with evictions run in whole loops."""
    code = (
        "import simjax; assert simjax.make_loops_whole(); from tests.engine.test_whole_loops import digests; print(*digests(), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    whole, here = done.stdout.splitlines(), digests()
    assert [line.split()[0] for line in whole] == ["True"] * 2 and [line.split()[0] for line in here] == ["False"] * 2
    assert [line.split()[1] for line in whole] == [line.split()[1] for line in here]
