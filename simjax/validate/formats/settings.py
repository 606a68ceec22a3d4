"""What a load generator's result file records of the server, under the many names that these settings have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from simjax.cluster.unsimulated import Setting, unsimulated
from simjax.config.scheduler import SchedulerConfig
from simjax.errors import SimjaxError
from simjax.options.condition import NoneType  # placeholder
