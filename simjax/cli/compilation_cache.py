"""The compilation cache of the commands: compiled programs that are kept between processes."""

from __future__ import annotations

import os
from pathlib import Path

from simjax.cli.checked_cache import check_entries
from simjax.disk.stored import processor


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, in $XDG_CACHE_HOME/simjax unless the user set JAX_COMPILATION_CACHE_DIR.

    Only the command line does this: the library does not change JAX's settings.
    """
    # jax 0.10 logs an error for every cache hit on the CPU, although the program is right (machine features are spelt differently).
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # unset, or the value that jax sets for its child processes
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import jax

    own = not jax.config.values["jax_compilation_cache_dir"]
    if own:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simjax" / f"xla-{jax.__version__}-{processor()}"
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # no writable directory: every process compiles
        jax.config.update("jax_compilation_cache_dir", str(home))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a run has a dozen small programs besides the engine
    check_entries(own)
