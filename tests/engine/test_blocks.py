"""How many blocks hold so many tokens: exact for every block size, however the compiler divides."""

import jax
import jax.numpy as jnp
import numpy as np

from simjax.engine.kv.blocks import blocks_of


def test_every_block_size_divides_exactly():
    tokens = np.concatenate([np.arange(30_000), 2**31 - 1 - np.arange(100)]).astype(np.int32)
    with jax.enable_x64(True):
        compiled = jax.jit(blocks_of)
        for size in [*range(1, 300), 1000, 4096, 2**20]:
            wanted = -(-tokens.astype(np.int64) // size)
            np.testing.assert_array_equal(np.asarray(compiled(jnp.asarray(tokens), jnp.int32(size))), wanted)
