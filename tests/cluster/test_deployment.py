"""The record of a deployment: defaults that are filled in, comparisons, and what is not simulated yet."""

from dataclasses import replace

import pytest

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.deployment import Deployment, Role
from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec, load_device
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.file import generic_profile
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism

LLAMA, H100 = load_model("llama-3.1-8b"), load_device("h100")


def test_fields_that_are_left_out_are_filled_in():
    plain = Deployment(LLAMA, H100)
    assert (plain.link, plain.kv_cache_dtype) == (H100.node.intra_link, "bfloat16")
    assert plain == Deployment(LLAMA, H100, Parallelism(), H100.node.intra_link, "torch.bfloat16")
    assert plain != replace(plain, kv_cache_dtype="fp8") and plain != replace(plain, parallelism=Parallelism(2))


def test_an_instance_has_one_deployment():
    link = LinkSpec(1e9, 1e-6)
    limits = InstanceLimits(kv_cache_dtype="fp8_e4m3", enforce_eager=True, async_scheduling=False)
    instance = InstanceSpec(LLAMA, H100, Parallelism(2), limits, link)
    assert instance.deployment == Deployment(LLAMA, H100, Parallelism(2), link, "fp8", (True, True), async_scheduling=False)
    assert instance.deployment is instance.deployment


def test_neither_the_size_of_the_memory_nor_the_role_changes_a_step_time():
    small = Deployment(LLAMA, replace(H100, memory_bytes=2**36), role=Role.DECODE)
    assert small != Deployment(LLAMA, H100)
    assert small.with_times_only() == Deployment(LLAMA, H100).with_times_only()
    slow = replace(H100, memory_bandwidth_bytes_per_s=1e12)
    assert small.with_times_only() != Deployment(LLAMA, slow).with_times_only()


def test_devices_of_an_instance():
    assert Parallelism(2, 4, 3).num_devices == 24
    assert Parallelism(tensor=8, expert=8).num_devices == 8, "experts are spread over ranks that are there anyway"


@pytest.mark.parametrize("name", ["tensor", "pipeline", "data", "expert"])
def test_a_size_below_one_is_refused(name: str):
    with pytest.raises(SimjaxError, match=f"^cluster.{name}_parallel_size=0: it must be at least 1$"):
        Parallelism(**{name: 0})


@pytest.mark.parametrize(("data", "group"), [(1, 1), (3, 3)])
def test_sizes_that_vllm_has_not_are_refused(data: int, group: int):
    sizes = Parallelism(data=data, expert=2)
    message = f"^expert_parallel_size=2: vLLM's is that of all ranks, {group}, or 1 without it$"
    with pytest.raises(SimjaxError, match=message):
        InstanceSpec(LLAMA, H100, sizes)
    with pytest.raises(SimjaxError, match=message):
        compile_profile(generic_profile(H100), Deployment(LLAMA, H100, sizes))


def test_a_bare_degree_names_the_record():
    with pytest.raises(SimjaxError, match=r"parallelism=2 is now a record, such as Parallelism\(tensor=2\)"):
        InstanceSpec(LLAMA, H100, 2)  # type: ignore[arg-type]
