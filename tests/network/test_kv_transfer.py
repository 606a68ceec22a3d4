"""KV bytes and contiguous pieces of a transfer, by hand."""

import pytest

from simjax.errors import SimjaxError
from simjax.model import kv_bytes_per_token, load_model
from simjax.network.kv_transfer import KvShape, check_degrees, descriptors_per_block, transfer_bytes_per_token

QWEN = load_model("qwen3-8b")  # 36 layers, 8 KV heads of 128
GQA = KvShape.of(QWEN, "bfloat16")
DEEPSEEK = KvShape.latent(512, 64, 61, 2)


def test_qwen3_8b_is_that_of_the_measured_transfers():
    assert (GQA.heads, GQA.layers) == (8, 36)
    assert transfer_bytes_per_token(GQA, 8) == 36 * 8 * 128 * 2 * 2 == 147_456
    assert transfer_bytes_per_token(KvShape.of(QWEN, "fp8"), 8) == 147_456 // 2


@pytest.mark.parametrize("decode", [1, 2, 4, 8])
def test_heads_that_divide_are_read_once_whatever_the_degrees(decode):
    assert transfer_bytes_per_token(GQA, decode) == 147_456


@pytest.mark.parametrize(("decode", "copies"), [(16, 2), (32, 4)])
def test_replicated_heads_are_read_by_each_rank_that_holds_them(decode, copies):
    assert transfer_bytes_per_token(GQA, decode) == copies * 147_456


@pytest.mark.parametrize("decode", [1, 2, 4, 8, 16])
def test_every_rank_reads_the_latent_of_mla(decode):
    assert transfer_bytes_per_token(DEEPSEEK, decode) == decode * 61 * 576 * 2


@pytest.mark.parametrize("degree", [1, 2, 8, 16])
def test_a_transfer_fills_the_ranks_that_read_it(degree):
    assert transfer_bytes_per_token(GQA, degree) == degree * kv_bytes_per_token(QWEN, degree)


@pytest.mark.parametrize(
    ("prefill", "decode", "sources"),
    [
        (4, 4, 1),
        (2, 4, 1),  # a rank reads half of one rank's heads
        (4, 2, 2),  # a rank reads all heads of two ranks
        (8, 1, 8),
        (16, 1, 8),  # two ranks hold each head, one of them is read
        (16, 16, 1),
        (8, 16, 1),
    ],
)
def test_a_decode_rank_reads_pieces_of_every_rank_that_has_its_heads(prefill, decode, sources):
    assert descriptors_per_block(GQA, prefill, decode) == sources * 36 * 2
    assert descriptors_per_block(GQA, prefill, decode, "joined") == sources * 36
    assert descriptors_per_block(GQA, prefill, decode, "whole") == sources


def test_pieces_of_a_block_are_those_that_were_counted():
    llama = KvShape.of(load_model("llama-3.1-8b"), "bfloat16")
    assert descriptors_per_block(llama, 1, 1) == 64  # of 32 kB, before vLLM joined them
    assert 16 * transfer_bytes_per_token(llama, 1) // 64 == 32_768
    assert descriptors_per_block(DEEPSEEK, 8, 4, "joined") == 61  # every prefill rank has the whole latent


@pytest.mark.parametrize(("prefill", "decode"), [(3, 2), (6, 4)])
def test_degrees_of_which_none_divides_the_other_are_refused(prefill, decode):
    with pytest.raises(SimjaxError, match=rf"^tensor_parallel_size={prefill} of prefill and {decode} of decode instances: vLLM moves"):
        check_degrees(prefill, decode)
    check_degrees(prefill, 1)
