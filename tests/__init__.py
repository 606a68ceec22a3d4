"""Tests of simjax. Whatever imports one of them shares the compilation cache; jax reads the settings when it is imported."""

from tests.compilation_cache import share_compilation_cache

share_compilation_cache()
