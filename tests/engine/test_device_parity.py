"""A batch gives the same results on every kind of device that JAX finds. Where that is only a CPU, the test is skipped and says so."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from simjax.engine.batch import compiled_batch
from simjax.engine.host.batch import Batch, make_batch
from tests.engine.scenario import Limits, RouterPolicy, Timing
from tests.engine.test_batch import lowered
from tests.engine.test_engine import busy_scenario

RELATIVE = 1e-9  # an accelerator may contract a product and a sum into one rounding
STRIDE = 8


def accelerators() -> list[Any]:
    """The first device of each kind that is no CPU."""
    return list({device.platform: device for device in reversed(jax.devices()) if device.platform != "cpu"}.values())


def run_on(device: Any, batch: Batch) -> Any:
    """The final states, on the host."""
    with jax.enable_x64(True):
        params = jax.device_put(batch.params, device)
        state, going = compiled_batch(batch.shape, STRIDE, params)(params, jax.device_put(np.int32(10**6), device))
        assert not np.asarray(going).any()
        return jax.device_get(state)


@pytest.mark.parametrize("router", [RouterPolicy.ROUND_ROBIN, RouterPolicy.LEAST_KV])
def test_accelerators_give_the_results_of_the_cpu(router: RouterPolicy):
    """Engines that starve, preempt or have room, two to a cluster; the schedules must be the same and the times nearly."""
    if not (found := accelerators()):
        pytest.skip("JAX finds only a CPU here; a machine with a GPU compares its results with the CPU's")
    limits = (Limits(num_blocks=26, max_num_seqs=6, max_num_batched_tokens=24), Limits(num_blocks=400, max_num_seqs=16))
    rows = [busy_scenario(limits=(limit,) * 2, timing=Timing.drawn(i), router=router) for i, limit in enumerate(limits)]
    batch = make_batch([lowered(row) for row in rows])
    wanted = run_on(jax.devices("cpu")[0], batch)
    for device in found:
        state = run_on(device, batch)
        for name in ("ticks", "steps", "done", "peak_blocks"):
            np.testing.assert_array_equal(getattr(state, name), getattr(wanted, name), err_msg=f"{device}: {name}")
        count = int(batch.params.requests.count[0])
        np.testing.assert_allclose(state.outcome[:, :count], wanted.outcome[:, :count], rtol=RELATIVE, atol=0, err_msg=str(device))
