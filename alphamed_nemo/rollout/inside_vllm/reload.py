"""Loads a whole update into a model that vLLM serves from. Runs in the vLLM worker.

What a layer computes with is not always the weight that was loaded: CPU kernels keep linear weights packed, quantised
ones keep scales. vLLM's layerwise reload builds that anew for each layer that receives a tensor. A layer that shares
another's weight receives none (a tied head, whose weight is the embedding's), and would compute with what was packed
when the server started. Such layers are built anew here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import _place_kernel_tensors, get_layerwise_info


def load_whole(model: nn.Module, model_config: ModelConfig, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Load every weight of the model.

    Args:
        weights: (HF name, full tensor), complete: the caller has compared them with the key manifest.

    Raises:
        RuntimeError: a layer with weights of its own received none. The others are new by then, so the server must be
            refitted or restarted.
    """
    assert callable(model.load_weights), f"{type(model).__name__} is not a model of vLLM's"
    initialize_layerwise_reload(model)
    try:
        # Rounded first: some kernels keep a bias in float32, where it would stay more exact than in a server that was
        # started with these weights.
        model.load_weights((name, tensor.to(model_config.dtype)) for name, tensor in weights)
        untouched = untouched_layers(model)
        finalize_layerwise_reload(model, model_config)
    except BaseException:
        forget(model)
        raise
    process_shared(model, untouched)


def forget(model: nn.Module) -> None:
    """After an update that did not end: layers that wait for the rest of their weights have the old ones again.

    Else the next update would be added to what they hold, and a layer would be built from some of both.
    """
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            _place_kernel_tensors(layer, info)
            info.reset()


def untouched_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with parameters that received no tensor, by name; asked before the reload is finalised."""
    found = {}
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        waiting = info.can_load() and info.load_numel <= 0
        if waiting and info.kernel_tensors is not None and info.kernel_tensors[0]:
            found[name] = layer
    return found


def process_shared(model: nn.Module, untouched: dict[str, nn.Module]) -> None:
    """Build anew what the untouched layers derive from the weights that they share with others.

    Raises:
        RuntimeError: one of them shares none, and so holds an old weight.
    """
    others = [layer for layer in model.modules() if all(layer is not each for each in untouched.values())]
    received = {id(parameter) for layer in others for parameter in layer.parameters(recurse=False)}
    for name, layer in untouched.items():
        if kept := [own for own, each in layer.named_parameters(recurse=False) if id(each) not in received]:
            raise RuntimeError(
                f"{name}.{kept[0]}: no tensor of the update went into it, so it holds the weights of before; does "
                "config.json of the served folder say the same of tie_word_embeddings as the trainer's?"
            )
        method = getattr(layer, "quant_method", None)
        if isinstance(method, QuantizeMethodBase):
            method.process_weights_after_loading(layer)
