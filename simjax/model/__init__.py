"""Language models: parameters, bytes and arithmetic, independent of any hardware."""

from simjax.model.dtypes import dtype_bytes
from simjax.model.hf_config import from_hf_config
from simjax.model.registry import load_model, model_names, plain_name, same_architecture
from simjax.model.sizes import Shard, active_parameters, kv_bytes_per_token, parameters, shard, state_bytes_per_sequence, weight_bytes
from simjax.model.spec import ModelSpec, quantized_as, served_as, without_windows

__all__ = [
    "ModelSpec",
    "Shard",
    "active_parameters",
    "dtype_bytes",
    "from_hf_config",
    "kv_bytes_per_token",
    "load_model",
    "model_names",
    "parameters",
    "plain_name",
    "quantized_as",
    "same_architecture",
    "served_as",
    "shard",
    "state_bytes_per_sequence",
    "weight_bytes",
    "without_windows",
]
