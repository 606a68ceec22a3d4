"""Language models: parameters, bytes and arithmetic, independent of any hardware."""

from simjax.model.dtypes import dtype_bytes
from simjax.model.hf_config import from_hf_config
from simjax.model.registry import load_model, model_names, plain_name, same_architecture
from simjax.model.sizes import Shard, kv_bytes_per_token, parameters, shard, weight_bytes
from simjax.model.spec import ModelSpec, served_as

__all__ = [
    "ModelSpec",
    "Shard",
    "dtype_bytes",
    "from_hf_config",
    "kv_bytes_per_token",
    "load_model",
    "model_names",
    "parameters",
    "plain_name",
    "same_architecture",
    "served_as",
    "shard",
    "weight_bytes",
]
