"""The tier that options describe: rules by connector, sizes and times of copies, and the line that each mistake gets."""

import pytest

import simjax
from simjax.errors import SimjaxError
from simjax.tiering import CONNECTORS, Tiering, tiering_of
from simjax.tiering.config import TieringConfig


def test_without_a_connector_there_is_no_tier() -> None:
    assert tiering_of(TieringConfig()) is None


def test_options_replace_rules_of_the_connector_and_leave_the_others() -> None:
    plain = Tiering.of("lmcache", num_chunks=9)
    assert plain.rules == CONNECTORS["lmcache"] and plain.rules.chunk_tokens == 256 and plain.rules.load == "sync"
    made = tiering_of(TieringConfig(connector="lmcache", num_chunks=9, load="async", prompt_only=False, setup_s=2e-3))
    assert made is not None and (made.rules.load, made.rules.prompt_only, made.rules.chunk_tokens) == ("async", False, 256)
    assert (made.num_chunks, made.setup_s, made.load_bytes_per_s) == (9, 2e-3, 50e9)


@pytest.mark.parametrize(("block_size", "blocks"), [(16, 16), (48, 5), (512, 1)])
def test_a_chunk_is_of_whole_blocks(block_size: int, blocks: int) -> None:
    assert Tiering.of("lmcache", num_chunks=1).blocks_per_chunk(block_size) == blocks
    assert Tiering.of("vllm-offload", num_chunks=1).blocks_per_chunk(block_size) == 1


def test_chunks_and_times_of_copies() -> None:
    """Qwen3-32B on two devices: 4.19 MB a block of 16 tokens; 172 GB hold the 41,000 blocks of the measured run."""
    block_bytes = 16 * 64 * 8 * 128 * 2 * 2
    assert block_bytes == 4_194_304
    assert Tiering.of("vllm-offload", capacity_bytes=41_000 * block_bytes).chunks(block_bytes, 16) == 41_000
    assert Tiering.of("lmcache", capacity_bytes=41_000 * block_bytes).chunks(block_bytes, 16) == 41_000 // 16
    tier = Tiering.of("vllm-offload", num_chunks=1, load_bytes_per_s=50e9, store_bytes_per_s=25e9, setup_s=1e-3, per_block_s=4e-6)
    assert tier.copy_s(10, block_bytes, devices=2, load=True) == pytest.approx(1e-3 + 10 * (4e-6 + block_bytes / 100e9))
    assert tier.copy_s(10, block_bytes, devices=2, load=False) == pytest.approx(1e-3 + 10 * (4e-6 + block_bytes / 50e9))
    with pytest.raises(SimjaxError, match=r"^kv_tiers\.capacity_bytes=1e\+06: it must hold at least one chunk of 4\.1943e\+06 bytes$"):
        Tiering.of("vllm-offload", capacity_bytes=1e6).chunks(block_bytes, 16)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"connector": "lmcash", "num_chunks": 1}, r"kv_tiers\.connector=lmcash: there is no such connector; did you mean lmcache\?"),
        ({"connector": "lmcache"}, "kv_tiers.capacity_bytes and kv_tiers.num_chunks are both unset; give the size of the tier"),
        ({"connector": "lmcache", "num_chunks": 1, "capacity_bytes": 1e9}, "are both set; leave one of them out"),
        ({"connector": "lmcache", "num_chunks": 0}, r"kv_tiers\.num_chunks=0: it must be at least 1"),
        ({"connector": "lmcache", "num_chunks": 1, "load": "lazy"}, r"kv_tiers\.load=lazy: there is no such choice"),
        ({"connector": "lmcache", "num_chunks": 1, "policy": "fifo"}, r"kv_tiers\.policy=fifo: there is no such choice"),
        ({"connector": "lmcache", "num_chunks": 1, "scope": "rack"}, r"kv_tiers\.scope=rack: there is no such choice"),
        ({"connector": "lmcache", "num_chunks": 1, "store_threshold": 0}, r"kv_tiers\.store_threshold=0: it must be at least 1"),
        ({"connector": "lmcache", "num_chunks": 1, "chunk_tokens": -1}, r"kv_tiers\.chunk_tokens=-1: it must not be negative"),
        ({"connector": "lmcache", "num_chunks": 1, "load_bytes_per_s": 0.0}, r"kv_tiers\.load_bytes_per_s=0\.0: it must be positive"),
        ({"connector": "lmcache", "num_chunks": 1, "setup_s": -1.0}, r"kv_tiers\.setup_s=-1\.0: it must be a number of seconds"),
    ],
)
def test_a_mistake_gets_one_line(given: dict, said: str) -> None:
    with pytest.raises(SimjaxError, match=said) as error:
        tiering_of(TieringConfig(**given))
    assert "\n" not in str(error.value)


def test_an_option_without_a_connector_has_no_effect() -> None:
    with pytest.raises(SimjaxError, match=r"kv_tiers\.num_chunks=7 has no effect without connector"):
        simjax.compose(["kv_tiers.num_chunks=7"])
