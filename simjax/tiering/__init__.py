"""Tiers of KV cache behind the device's own: where blocks go when they are stored, and how they come back."""

from simjax.tiering.config import tiering_of
from simjax.tiering.connector import CONNECTORS, Connector
from simjax.tiering.tier import Tiering

__all__ = ["CONNECTORS", "Connector", "Tiering", "tiering_of"]
