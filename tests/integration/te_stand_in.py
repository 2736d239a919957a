"""Transformer Engine's own Python without its compiled extension, and so without a GPU.

Its modules, parameters, checkpoints and recipes are its own; the maths of the kernels that they would call is torch's:
Linear, LayerNormLinear, RMSNorm, attention over packed sequences, and the multi-tensor Adam. `install` comes before
anything else imports Megatron, which decides at its import whether there is a Transformer Engine.
"""

from __future__ import annotations

import enum
import importlib.abc
import importlib.machinery
import inspect
import os
import re
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import Tensor

CUDNN = 92000
ABSENT = ("onnxscript", "onnxscript.onnx_types", "nvdlfw_inspect", "nvdlfw_inspect.api", "cudnn")


def install(source: str) -> None:
    """
    Args:
        source: the unpacked wheel of transformer-engine, which is pure Python.
    """
    os.environ["NVTE_PROJECT_BUILDING"] = "1"  # it then looks for no library
    sys.path.insert(0, source)
    sys.modules["transformer_engine_torch"] = _extension(Path(source))
    for name in ABSENT:
        module = MagicMock(name=name)
        module.__path__, module.__spec__ = [], None
        sys.modules[name] = module
    import torch._dynamo
    import torch.utils.flop_counter  # both look for a real triton

    sys.meta_path.append(_Triton())
    torch.compile = lambda function=None, *_, **__: function if callable(function) else (lambda given: given)
    torch.jit.script = lambda given, *_, **__: given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no extension
        import transformer_engine.common

    transformer_engine.common.load_framework_extension = lambda _name: None
    import transformer_engine.pytorch as te

    available = torch.cuda.is_available
    # For its own modules there is a GPU; Megatron and this project know that there is none.
    torch.cuda.is_available = lambda: "transformer_engine/pytorch" in sys._getframe(1).f_code.co_filename or available()
    _with_reference_maths(te)
    _with_reference_optimizer()


def _extension(source: Path) -> types.ModuleType:
    """transformer_engine_torch: the enumerations as they are, and a stand-in for whatever else is asked for."""

    class Extension(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            made = MagicMock(name=f"transformer_engine_torch.{name}")
            setattr(self, name, made)
            return made

    found: Any = Extension("transformer_engine_torch")
    found.__file__, found.__all__ = "transformer_engine_torch", ["multi_tensor_scale"]
    text = (source / "transformer_engine" / "pytorch" / "constants.py").read_text()
    body = text.split("class DType", 1)[1].split("\n\n\n")[0]
    found.DType = enum.IntEnum(
        "DType", {name: i for i, name in enumerate(re.findall(r"^\s+(k\w+)\s*=", body, re.MULTILINE))}
    )
    backends = {"NVTE_No_Backend": -1, "NVTE_F16_arbitrary_seqlen": 1, "NVTE_FP8": 2}
    found.NVTE_Fused_Attn_Backend = enum.IntEnum("NVTE_Fused_Attn_Backend", backends)
    found.get_cudnn_version = lambda: CUDNN
    return found


class _Triton(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """triton and all below it, whose decorators return what they decorate."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.split(".")[0] == "triton":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__, module.__version__ = [], "3.5.0"
        module.jit = lambda given=None, **_: given if given else (lambda later: later)
        module.autotune = module.heuristics = lambda *_, **__: lambda given: given
        return module

    def exec_module(self, module: Any) -> None: ...


def _arguments(forward: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Reads a call by the names of the real signature, which refuses what the library would."""
    signature = inspect.signature(forward)

    def read(*args: Any, **kwargs: Any) -> dict[str, Any]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    return read


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), (x.shape[-1],), weight.float(), eps).to(x.dtype)


def _with_reference_maths(te: Any) -> None:
    read_linear, read_fused = _arguments(te.Linear.forward), _arguments(te.LayerNormLinear.forward)
    read_attention = _arguments(te.DotProductAttention.forward)

    def product(module: Any, x: Tensor) -> Any:
        bias = module.bias if module.use_bias else None
        y = F.linear(x, module.weight, None if module.return_bias else bias)
        return (y, bias) if module.return_bias else y

    def linear(self: Any, *args: Any, **kwargs: Any) -> Any:
        return product(self, read_linear(self, *args, **kwargs)["inp"])

    def norm_and_linear(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert self.normalization == "RMSNorm" and not self.zero_centered_gamma
        x = read_fused(self, *args, **kwargs)["inp"]
        return product(self, rms_norm(x, self.layer_norm_weight, self.eps))

    def attention(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        given = read_attention(self, *args, **kwargs)
        bounds = given["cu_seqlens_q"]
        assert given["qkv_format"] == "thd" and "causal" in given["attn_mask_type"] and given["attention_mask"] is None
        assert bounds.dtype == torch.int32 and given["max_seqlen_q"] >= int(bounds.diff().max())
        out = []
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            q, k, v = (given[f"{name}_layer"][start:end].transpose(0, 1)[None] for name in ("query", "key", "value"))
            out.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1))
        return torch.cat(out).flatten(1)

    te.Linear.forward, te.LayerNormLinear.forward = linear, norm_and_linear
    te.RMSNorm.forward = lambda self, x: rms_norm(x, self.weight, self.eps)
    te.DotProductAttention.forward = attention


def _with_reference_optimizer() -> None:
    import transformer_engine_torch as extension
    from megatron.core import utils
    from megatron.core.optimizer import clip_grads, optimizer
    from transformer_engine.pytorch.optimizers import fused_adam

    for module in (clip_grads, optimizer):
        module.multi_tensor_applier = utils.local_multi_tensor_applier
        module.multi_tensor_scale_impl = utils.local_multi_tensor_scale
    clip_grads.l2_norm_impl = utils.local_multi_tensor_l2_norm
    extension.multi_tensor_adam = _adam
    fused_adam.multi_tensor_applier = lambda kernel, overflow, lists, *args: kernel(0, overflow, lists, *args)


def _adam(
    _chunk: int, _overflow: Tensor, lists: list, lr: float, b1: float, b2: float, eps: float, step: int, *others: Any
) -> None:
    """AdamW on lists of gradients, parameters and moments."""
    _mode, _corrected, decay, *_ = others
    for grad, parameter, first, second in zip(*lists, strict=True):
        grad = grad.float()
        first.mul_(b1).add_(grad, alpha=1 - b1)
        second.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        update = (first / (1 - b1**step)) / ((second / (1 - b2**step)).sqrt() + eps)
        parameter.mul_(1 - lr * decay).sub_(lr * update)
