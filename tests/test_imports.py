"""Importing simjax, or any of its modules, starts no JAX backend, makes no array and changes no setting."""

import json
import subprocess
import sys

HOST_ONLY = ["errors", "disk.paths", "config", "workload", "model", "hardware", "metrics"]

# Run in a process of its own: this one has imported everything already.
WALK = """
import importlib, json, sys
from pathlib import Path
import simjax
root = Path(simjax.__file__).parent
files = sorted(path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py") if path.stem != "__main__")
found = [".".join(path.parts).removesuffix(".__init__") for path in files]
"""


def in_new_process(code: str) -> dict:
    done = subprocess.run([sys.executable, "-W", "error", "-c", WALK + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_modules_import_without_a_backend_or_a_changed_setting() -> None:
    said = in_new_process(
        """
import jax
from jax._src import xla_bridge
before = dict(jax.config.values)
for name in found:
    importlib.import_module(name)
changed = [key for key, value in jax.config.values.items() if before.get(key) != value]
started = xla_bridge.backends_are_initialized()
print(json.dumps({"modules": len(found), "changed": changed, "started": started, "arrays": len(jax.live_arrays()),
                  "drawing": "matplotlib" in sys.modules}))
"""
    )
    assert said["modules"] > 60
    assert said["changed"] == []
    assert not said["started"]
    assert said["arrays"] == 0
    assert not said["drawing"], "matplotlib is to be imported only when something is drawn"


def test_host_modules_do_not_import_jax() -> None:
    said = in_new_process(
        f"""
host = tuple("simjax." + name for name in {HOST_ONLY!r})
names = [name for name in found if name.startswith(host)]
for name in names:
    importlib.import_module(name)
print(json.dumps({{"modules": len(names), "jax": "jax" in sys.modules}}))
"""
    )
    assert said["modules"] > 40
    assert not said["jax"]


def test_help_imports_neither_jax_nor_pandas() -> None:
    said = in_new_process(
        """
import contextlib, io
from simjax.cli.main import COMMANDS, main
with contextlib.redirect_stdout(io.StringIO()) as out:
    for command in COMMANDS:
        main([*command, "--help"])
print(json.dumps({"printed": len(out.getvalue()), "slow": [name for name in ("jax", "pandas", "matplotlib") if name in sys.modules]}))
"""
    )
    assert said["printed"] > 10_000
    assert said["slow"] == []


def test_public_names_are_loaded_when_used() -> None:
    import simjax

    assert dir(simjax) == sorted(simjax.__all__)
    for name in simjax.__all__:
        assert callable(getattr(simjax, name)), f"a module of the name simjax.{name} would hide what is public"
    assert set(simjax.__all__) == {"compose", *simjax._PUBLIC}
