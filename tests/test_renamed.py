"""Names of before still work, and say what they are called now."""

import importlib

import pytest

import simjax

OLD = [
    ("simjax", "CostSource", "LatencySource"),
    ("simjax", "EngineLimits", "InstanceLimits"),
    ("simjax.job", "cost_source", "latency_source"),
]


@pytest.mark.parametrize(("module", "old", "new"), OLD)
def test_an_old_name_is_the_new_thing(module: str, old: str, new: str) -> None:
    found = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"^{module}.{old} is called {module}.{new} now$"):
        assert getattr(found, old) is getattr(found, new)


def test_other_names_are_unknown() -> None:
    for module in (simjax, importlib.import_module("simjax.job")):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = module.nothing
