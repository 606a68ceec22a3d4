"""KV blocks by groups of layers: vLLM's numbers, a plain count of blocks, and the bound that the engine is told."""

from dataclasses import replace

import pytest

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.memory.capacity import MemoryLimits, kv_blocks, overhead_bytes
from simjax.memory.groups import KvGroups, Window, blocks_of_all_layers, kv_groups
from simjax.model import load_model, state_bytes_per_sequence, weight_bytes, without_windows

GIB = 2**30
B200, H100 = load_device("b200"), load_device("h100")


def test_blocks_of_the_note():
    """Blocks of 4, a window of 8, a full group and two with a window: 12 blocks for the 21st token, 18 without a window."""
    groups = KvGroups(1, 1, (Window(8, False, 2),), 0, 2)
    assert groups.blocks_held(20, 4) == 6 + 2 * 3
    assert KvGroups(1, 3, (), 0, 2).blocks_held(20, 4) == 18


@pytest.mark.parametrize(
    ("name", "size", "full", "windows", "padding"),
    [
        ("gemma-3-27b", 10, 1, ((1024, 6),), 8),  # 10 full and 52 with a window
        ("gpt-oss-120b", 18, 1, ((128, 1),), 0),
        ("gemma-2-9b", 21, 1, ((4096, 1),), 0),
        ("llama-4-scout", 12, 1, ((8192, 3),), 0),
        ("deepseek-v3", 61, 1, (), 0),
        ("llama-3.1-8b", 32, 1, (), 0),
        ("mistralai/Mistral-7B-v0.1", 32, 0, ((4096, 1),), 0),
    ],
)
def test_groups_of_models(name, size, full, windows, padding):
    groups = kv_groups(load_model(name), 1, 2)
    assert groups is not None
    assert (groups.size, groups.full, tuple((x.tokens, x.groups) for x in groups.windows), groups.padding) == (size, full, windows, padding)


@pytest.mark.parametrize("chunked", [False, True])
def test_blocks_against_a_plain_count(chunked):
    """Every block with a token that a later query sees is held, and every one that is not yet filled."""
    window, groups = 8, KvGroups(1, 1, (Window(8, chunked, 3),), 0, 2)
    for block in (1, 3, 4):
        for computed in range(30):
            first = computed // window * window if chunked else max(computed + 1 - window, 0)
            last = (computed + 1 - 1) // block
            held = sum(1 for number in range(last + 1) if (number + 1) * block > first)
            assert groups.blocks_held(computed, block) == last + 1 + 3 * held
            assert 3 * held <= groups.most_in_windows(1, 1, block)


def test_the_better_of_two_bounds():
    groups = KvGroups(1, 1, (Window(8, False, 2),), 0, 2)
    pool = groups.pool_blocks(2400, 4)
    assert pool == 300
    # each of 5 requests keeps 3 blocks in each group with a window, a step of 16 tokens 4 more
    assert blocks_of_all_layers(groups, 2400, 4, 5, 16) == 300 - 2 * (5 * 3 + 4)
    assert blocks_of_all_layers(groups, 2400, 4, 80, 16) == 100
    assert blocks_of_all_layers(KvGroups(1, 0, (Window(8, False, 2),), 0, 2), 2400, 4, 5, 16) == 150


def test_capacity_of_gpt_oss_on_one_b200():
    """Half of its layers see 128 tokens: about twice the tokens that all layers would leave room for."""
    model, limits = load_model("gpt-oss-120b"), MemoryLimits(max_num_batched_tokens=8192)
    one, without = Deployment(model, B200), Deployment(without_windows(model), B200)
    left = int(B200.memory_bytes * 0.9) - weight_bytes(model) - overhead_bytes(one, limits)
    reserved = 256 * (8 + 1) + 512  # 127 tokens before the query are 8 blocks
    assert kv_blocks(one, limits) == left // (18 * 2048 * 16) - reserved
    assert kv_blocks(without, limits) == left // (36 * 2048 * 16)
    stated = MemoryLimits(kv_cache_memory_bytes=10 * GIB, max_num_batched_tokens=8192)
    assert kv_blocks(one, stated) == 10 * GIB // (18 * 2048 * 16) - reserved


def test_states_of_recurrent_layers_are_kept_for_every_seat():
    model = load_model("qwen3.5-35b-a3b")
    few, many = (MemoryLimits(max_num_seqs=seats, gpu_memory_utilization=0.95) for seats in (16, 48))
    one = Deployment(model, H100)
    states = 32 * state_bytes_per_sequence(model) + overhead_bytes(one, many) - overhead_bytes(one, few)
    assert abs((kv_blocks(one, few) - kv_blocks(one, many)) * 16 * 20_480 - states) <= 16 * 20_480
    with pytest.raises(SimjaxError, match="weights and states of max_num_seqs=1024 requests"):
        kv_blocks(one, MemoryLimits(max_num_seqs=1024))


def test_an_unfit_model_is_as_before_without_windows():
    model = load_model("mistralai/Mistral-7B-v0.1")
    second = replace(load_model("mistralai/Mistral-7B-Instruct-v0.2"), name=model.name)
    assert replace(without_windows(model), sliding_window=None) == second
    assert kv_blocks(Deployment(without_windows(model), H100)) == kv_blocks(Deployment(second, H100))
