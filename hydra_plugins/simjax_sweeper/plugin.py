"""`hydra/sweeper=simjax`: simulates the points of a multirun side by side in this process, instead of one job per point.

Hydra executes this module at the start of every application in the environment, simjax or not, before entering it into `sys.modules`. So
it must not fail, must not import anything heavy, and cannot use postponed annotations (for which a dataclass looks up its module).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class SimjaxSweeperConf:
    """The settings under `hydra.sweeper`.

    Attributes:
        params: axes in addition to those of the command line, as for Hydra's basic sweeper: {workload.rate: "1,2,4"}.
    """

    _target_: str = "hydra_plugins.simjax_sweeper.plugin.SimjaxSweeper"
    params: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="simjax", node=SimjaxSweeperConf, provider="simjax")


class SimjaxSweeper(Sweeper):
    """Hands the arguments of a multirun to `simjax.cli.sweeper`."""

    def __init__(self, params: Any = None) -> None:
        self.params: dict[str, Any] = {str(key): value for key, value in (params or {}).items()}
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra; rejects the configurations of other applications.

        Raises:
            ConfigCompositionException: the configuration is not that of `simjax run`.
        """
        from hydra.core.plugins import Plugins

        from simjax.disk.paths import CONF

        main = [source.path for source in config.hydra.runtime.config_sources if source.provider == "main"]
        if main != [str(CONF)] or config.hydra.job.config_name != "run":
            raise ConfigCompositionException(
                "hydra/sweeper=simjax sweeps `simjax run` only; choose another one, such as hydra/sweeper=basic"
            )
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra with the overrides of the command line, including those with several values."""
        from simjax.cli.sweeper import sweep

        assert self.config is not None and self.launcher is not None
        params = [f"{key}={_in_grammar(value)}" for key, value in self.params.items()]
        return sweep(self.config, arguments, params, self.launcher)


def _in_grammar(value: Any) -> str:
    """A value of `hydra.sweeper.params`, which is text in Hydra's grammar or a list, as text in the grammar."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return str(value)
    from simjax.explore.values import format_value

    return ",".join(format_value(OmegaConf.to_container(x) if OmegaConf.is_config(x) else x) for x in value)
