"""Which checkpoint a row of measured points served: its model in the precision that the row states.

Tables name the original model and a precision; what is quantised, and how, is that of the checkpoints which the benchmarks load:

- fp8: all matrices of the layers; models that are published in it (DeepSeek V3) are served as they are. Qwen publishes its models with
  scales for blocks of weights, the others have NVIDIA's checkpoints with one for each matrix.
- fp4: NVIDIA's NVFP4 checkpoints. Of dense models they hold all matrices of the layers in it, of mixtures of experts the MLPs and experts
  only (their cards: "the linear operators within transformer blocks in MoE").
- a model that is published in four bits only (gpt-oss in mxfp4, Kimi K2.5 in int4): that checkpoint, whatever name the precision has. On
  devices with matrix products in fp4 its mxfp4 experts take 8-bit activations in TensorRT-LLM, and in vLLM as the benchmark asks for it.
"""

from __future__ import annotations

from dataclasses import replace

from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec
from simjax.model import ModelSpec, load_model
from simjax.model.precision import FP8

UNQUANTIZED = ("", "bf16", "bfloat16", "fp16", "float16")
FORMATS_OF = {"fp8": "fp8", "fp4": "nvfp4"}
"""Format that a precision means for a model that is not published in four bits."""
PUBLISHED_IN_FOUR_BITS = ("mxfp4", "mxfp4_mxfp8", "int4")
_SUFFIXES = ("-FP8", "-NVFP4")
_SAME_ARCHITECTURE = {"nvidia/DeepSeek-V3.1": "deepseek-ai/DeepSeek-V3", "nvidia/Qwen3-32B": "Qwen/Qwen3-32B"}


def original(text: str) -> ModelSpec:
    """The architecture of a checkpoint; a suffix that names its precision is none of its name.

    Raises:
        SimjaxError: the model is unknown.
    """
    for suffix in _SUFFIXES:
        text = text.removesuffix(suffix)
    return load_model(_SAME_ARCHITECTURE.get(text, text))


def served(text: str, precision: str, device: DeviceSpec) -> ModelSpec:
    """The model of a row as its servers loaded it.

    Args:
        text: the row's model.
        precision: the row's precision in lower case, "" for 16 bits.
        device: what it ran on.

    Raises:
        SimjaxError: the model or the precision is unknown, the model is published in another one, or the device cannot multiply in it.
    """
    if precision not in UNQUANTIZED and precision not in (*FORMATS_OF, "int4"):
        raise SimjaxError(f"precision {precision} is not simulated")
    model = original(text)
    own = model.quantization or ""
    if own.startswith(PUBLISHED_IN_FOUR_BITS):
        found = _four_bits(model, precision, device)
    elif precision == own.removesuffix("_block") or (precision in UNQUANTIZED and not own):
        found = model
    elif precision in FORMATS_OF and (not own or own in FP8):
        blocks = precision == "fp8" and model.model_type.startswith("qwen")
        found = _quantized(model, "fp8_block" if blocks else FORMATS_OF[precision])
    else:
        raise SimjaxError(f"precision {precision or 'of 16 bits'}: {model.name} is a checkpoint in {own or model.dtype}")
    if found.computed_in is not None and found.computed_in not in device.peak_flops:
        raise SimjaxError(f"device {device.name} has no {found.computed_in} matrix products")
    return found


def _four_bits(model: ModelSpec, precision: str, device: DeviceSpec) -> ModelSpec:
    """A checkpoint that is published in four bits; nvfp4 is a conversion of NVIDIA's."""
    if precision in UNQUANTIZED:
        raise SimjaxError(f"precision {precision or 'of 16 bits'}: {model.name} is a checkpoint in {model.quantization}")
    if model.quantization == "mxfp4":
        return replace(model, quantization="mxfp4_mxfp8") if "fp4" in device.peak_flops else model
    if precision == "fp4":
        return _quantized(model, "nvfp4")
    if precision == "int4":
        return model
    raise SimjaxError(f"precision {precision}: {model.name} is a checkpoint in {model.quantization}")


def _quantized(model: ModelSpec, name: str) -> ModelSpec:
    """The model in a format; of a mixture of experts in nvfp4 only MLPs and experts have it."""
    if name != "nvfp4" or not model.is_moe:
        return replace(model, quantization=name, unquantized=())
    mixing = dict.fromkeys(x.name for mixer, _ in model.groups for x in mixer.products(model.hidden_size, 1) if x.quantizable)
    return replace(model, quantization=name, unquantized=tuple(mixing))
