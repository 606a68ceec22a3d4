"""Load balancing within instances of several data-parallel ranks."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.errors import SimjaxError

SNAPSHOT_S = 0.1
"""Time between two snapshots of the ranks that the coordinator of an instance publishes (`stats_update_interval_ms` of vLLM)."""


@dataclass(frozen=True)
class Balancer:
    """The way of a request to a rank of its instance, by vLLM's names.

    Attributes:
        external: whether the router in front chooses among all ranks (`data_parallel_external_lb`): there is no balancer in the instances.
        api_server_count: API servers of an instance, each with a view of its own; None for as many as it has ranks.
        weighs_in_flight, publishes_dense: rules of the release, see `simjax.backend.releases.BALANCER`.

    Raises:
        SimjaxError: there is no API server.
    """

    external: bool = False
    api_server_count: int | None = None
    weighs_in_flight: bool = False
    publishes_dense: bool = False

    def __post_init__(self) -> None:
        if self.api_server_count is not None and self.api_server_count < 1:
            raise SimjaxError(f"cluster.api_server_count={self.api_server_count}: it must be at least 1")

    def api_servers(self, ranks: int) -> int:
        """API servers of an instance of so many ranks."""
        return ranks if self.api_server_count is None else self.api_server_count
