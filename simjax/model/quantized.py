"""Quantization of a checkpoint: what its `quantization_config`, or ModelOpt's file beside `config.json`, means for a `ModelSpec`.

FP8 is simulated for checkpoints whose layers' matrices are all in it, with one scale for a tensor, a channel or a block: a weight is one
byte, and a matrix product reads bytes and has the FLOP/s of FP8. The scales (0.02 % of a matrix in blocks of 128 x 128) and the time in
which inputs are quantised are left out. All else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from simjax.errors import SimjaxError

BESIDE = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files beside a `config.json` that state a quantization; the first one is ModelOpt's, the others are those of GPTQ and AWQ."""

_OTHER_KEYS = ("compression_config", "quantization")
_ASIDE = ("modules_to_not_convert", "ignored_layers", "exclude_modules", "ignore")
# What stays in the model's own type in any case: embedding, head, norms, routers, and the parts that are not simulated.
_NEVER_QUANTIZED = re.compile(r"(.*[._*])?(lm_head|embed_tokens|\w*norm|gate|router|shared_expert_gate)\*?|.*(visual|vision|multi_modal).*")
_INSTEAD = "use the unquantised model's config"


def read_quantization(config: Mapping[str, Any], where: str) -> tuple[str | None, str | None]:
    """Data types of the layers' matrices and of the KV cache, None each for the model's own.

    Args:
        config: mapping of a `config.json`.
        where: its name, for error messages.

    Raises:
        SimjaxError: it asks for a quantization that is not simulated.
    """
    for key in _OTHER_KEYS:
        if config.get(key):
            raise SimjaxError(f"{where}: {key} is not supported yet; {_INSTEAD}")
    found = config.get("quantization_config")
    if not found:
        return None, None
    if not isinstance(found, Mapping):
        raise SimjaxError(f"{where}: quantization_config must be a mapping, got {found!r}")
    return _of_mapping(found, f"{where}: quantization_config")


def read_beside(raw: Any, where: str) -> tuple[str | None, str | None]:
    """The same from the content of a file of `BESIDE`.

    Raises:
        SimjaxError: it is no file of ModelOpt's, or asks for a quantization that is not simulated.
    """
    found = raw.get("quantization") if isinstance(raw, Mapping) else None
    if not isinstance(found, Mapping):
        raise SimjaxError(f"{where}: this quantization is not supported yet; {_INSTEAD}")
    return _of_mapping({"quant_method": "modelopt", **found}, f"{where}: quantization")


def _of_mapping(found: Mapping[str, Any], where: str) -> tuple[str | None, str | None]:
    method = str(found.get("quant_method", found.get("quant_algo", "unknown")))
    algorithm = str(found.get("quant_algo", found.get("fmt", "e4m3")))
    if (method, algorithm.upper()) not in (("fp8", "E4M3"), ("modelopt", "FP8")):
        asked = f"{method} {found['quant_algo']}" if "quant_algo" in found else method
        raise SimjaxError(f"{where} is not supported yet for {asked}, only for FP8; {_INSTEAD}")
    names = [str(name) for key in _ASIDE for name in found.get(key) or ()]
    if aside := [name for name in names if not _NEVER_QUANTIZED.fullmatch(name)]:
        raise SimjaxError(f"{where} leaves out {aside[0]}: models that are quantised in part are not supported yet; {_INSTEAD}")
    cache = found.get("kv_cache_quant_algo") or (found.get("kv_cache_scheme") and "FP8")
    if cache not in (None, "FP8"):
        raise SimjaxError(f"{where}: kv_cache_quant_algo={cache} is not supported yet, only FP8; {_INSTEAD}")
    return "fp8", "fp8" if cache else None
