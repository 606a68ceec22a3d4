"""KV cache of a token on its way between two instances: bytes, and the contiguous pieces of a block.

Every decode rank reads what it will hold, whatever the prefill instance's degree is: its heads from the one prefill rank that has them,
or from several, each of which has some. KV heads that several decode ranks hold (fewer heads than ranks) are read by each of them, and so
is the latent of MLA, which is one head that every rank holds. With K heads, decode degree d and b bytes of a head in all layers,

    bytes of a token = d · max(K / d, 1) · b.

The rule is that of vLLM's NixlConnector (vllm/distributed/kv_transfer/kv_connector/v1/nixl).
"""

from __future__ import annotations

from dataclasses import dataclass

from simjax.errors import SimjaxError
from simjax.model import ModelSpec
from simjax.model.dtypes import dtype_bytes
from simjax.model.mixers import Attention, Recurrent

REGIONS = {"separate": 2, "joined": 1, "whole": 0}
"""Regions of memory for each layer by the way in which a backend lays out a block: keys and values apart (vLLM's default and what
NixlConnector registers), keys and values of a layer in one piece (MLA's latent is that by nature), all layers in one piece."""


@dataclass(frozen=True)
class KvShape:
    """The KV cache of a token as instances of any degree divide it.

    Attributes:
        heads: KV heads that ranks divide among them, 1 for MLA.
        head_bytes: bytes of one head in all layers, keys and values (or MLA's latent and rotary part).
        layers: layers that have a cache.
    """

    heads: int
    head_bytes: int
    layers: int

    @staticmethod
    def of(model: ModelSpec, kv_cache_dtype: str) -> KvShape:
        """The KV cache of a model, of layers with a window as of all others.

        Raises:
            SimjaxError: its layers differ in their KV heads, or some have a state instead, which vLLM hands over by other rules.
        """
        element, layers = dtype_bytes(kv_cache_dtype), model.num_hidden_layers
        kinds = [mixer for mixer, _ in model.groups]
        heads = {mixer.kv_heads if isinstance(mixer, Attention) else 1 for mixer in kinds}
        if len(heads) > 1 or any(isinstance(mixer, Recurrent) for mixer in kinds):
            raise SimjaxError(f"{model.name}: its layers differ in what they cache; handing it over between instances is not simulated")
        (count,) = heads
        return KvShape(count, sum(n * mixer.cache_bytes(1, element) for mixer, n in model.groups) // count, layers)

    @staticmethod
    def latent(kv_lora_rank: int, rope_head_dim: int, layers: int, element_bytes: int) -> KvShape:
        """The KV cache of a model with multi-head latent attention, the dimensions under DeepSeek's names."""
        return KvShape(1, (kv_lora_rank + rope_head_dim) * layers * element_bytes, layers)

    def rank_heads(self, degree: int) -> int:
        """KV heads on each rank of an instance of that degree."""
        return max(self.heads // degree, 1)


def transfer_bytes_per_token(shape: KvShape, decode_degree: int) -> int:
    """Bytes of a token that all ranks of a decode instance read together."""
    return decode_degree * shape.rank_heads(decode_degree) * shape.head_bytes


def descriptors_per_block(shape: KvShape, prefill_degree: int, decode_degree: int, layout: str = "separate") -> int:
    """Contiguous pieces of a block that one decode rank reads, in each of its layers from every prefill rank that has some of its heads.

    The ranks of an instance read side by side, so that the pieces of one of them take their time.

    Args:
        shape: the KV cache.
        prefill_degree: tensor-parallel degree of the instance that is read.
        decode_degree: that of the instance that reads.
        layout: one of `REGIONS`.
    """
    sources = max(shape.rank_heads(decode_degree) // shape.rank_heads(prefill_degree), 1)
    return sources * (REGIONS[layout] * shape.layers or 1)


def check_degrees(prefill_degree: int, decode_degree: int) -> None:
    """Refuse degrees of which none divides the other, between which vLLM's connectors move no KV cache.

    Raises:
        SimjaxError: they are such.
    """
    if prefill_degree % decode_degree and decode_degree % prefill_degree:
        raise SimjaxError(
            f"tensor_parallel_size={prefill_degree} of prefill and {decode_degree} of decode instances: vLLM moves KV caches only between "
            "degrees of which one divides the other"
        )
