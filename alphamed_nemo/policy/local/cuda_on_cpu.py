"""Makes Megatron-Core's CUDA calls land on the CPU, so that the same policy code trains without a GPU.

Megatron-Core 0.16.1 asks torch for CUDA devices, streams and random-number states by name in places that a CPU run
over gloo passes through as well (schedules, gradient clipping, the distributed optimizer, checkpoints). `install()`
answers those calls for the CPU. It is called by `policy.runtime.initialize`, once, before any model is built, and
refuses to run where there is a CUDA device.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._device import _device_constructors

# Functions that take `device=`; the ones that Megatron-Core calls with "cuda" are among them.
_FACTORIES = (
    "tensor as_tensor empty zeros ones full arange linspace eye rand randn randint randperm "
    "empty_like zeros_like ones_like full_like rand_like randn_like"
).split()

_installed = False


class _Nothing:
    """Stands for a CUDA stream or event: every method does nothing, and it is a context manager."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_exception: Any) -> None: ...

    def record_event(self, _event: Any = None) -> _Nothing:
        """Of a stream: an event that has happened already."""
        return self

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None


def install() -> None:
    """Installs the shim in this process; a second call does nothing.

    Raises:
        RuntimeError: there is a CUDA device, whose calls the shim would take away.
    """
    global _installed
    if _installed:
        return
    if torch.cuda.is_available():
        raise RuntimeError("the CPU shim must not be installed where there is a CUDA device")
    _answer_devices()
    _answer_streams()
    _answer_random_states()
    _answer_type_names()
    _skip_collectives_of_one()
    _installed = True


def _answer_devices() -> None:
    """The current device is the CPU, moving to the GPU changes nothing, and `device="cuda"` creates on the CPU."""
    cpu = torch.device("cpu")
    torch.cuda.current_device = lambda: cpu
    torch.cuda.set_device = lambda _device: None
    torch.Tensor.cuda = lambda self, *_args, **_kwargs: self
    torch.nn.Module.cuda = lambda self, *_args, **_kwargs: self
    # `with torch.device("meta")` recognises factories by a table that torch makes on its first use. Made after the
    # factories are replaced it would know none of them, and transformers would load models with unset buffers.
    _device_constructors()
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The factory with a CUDA `device` replaced by the CPU, and without pinned memory, which needs CUDA."""

    @functools.wraps(factory)
    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return create


def _answer_streams() -> None:
    """There is one order of execution on the CPU, so streams, events and synchronisation are empty."""
    torch.cuda.synchronize = lambda _device=None: None
    torch.cuda.Stream = torch.cuda.Event = _Nothing
    torch.cuda.current_stream = torch.cuda.default_stream = lambda _device=None: _Nothing()
    torch.cuda.stream = lambda _stream: contextlib.nullcontext()


def _answer_random_states() -> None:
    """The CUDA generator is the CPU generator, so that Megatron's tracker forks and restores that one."""
    from megatron.core.tensor_parallel import random

    def get(device: Any = "cuda") -> torch.Tensor:
        return torch.get_rng_state()

    def put(new_state: torch.Tensor, device: Any = "cuda", graph_safe: bool = False) -> None:
        torch.set_rng_state(new_state)

    answers = {"get_rng_state": get, "set_rng_state": put, "manual_seed": torch.manual_seed}
    for module in (torch.cuda, torch.cuda.random):
        for name, answer in answers.items():
            setattr(module, name, answer)
    random._set_cuda_rng_state = put


def _answer_type_names() -> None:
    """`Tensor.type()` says torch.cuda.…: the distributed optimizer compares this string to choose its buffers."""
    original = torch.Tensor.type

    @functools.wraps(original)
    def named(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if args or kwargs:
            return result
        return result if result.startswith("torch.cuda.") else result.replace("torch.", "torch.cuda.", 1)

    torch.Tensor.type = named


def _skip_collectives_of_one() -> None:
    """Megatron's reduce-scatter of gradients and all-gather of weights do nothing in a group of one rank.

    Each is in place there, the buffer being the rank's own part of it, but gloo copies the whole buffer to find that
    out: as much memory as all gradients for a moment, and two passes over it.
    """
    from megatron.core.distributed import param_and_grad_buffer

    for name in ("dist_reduce_scatter_func", "dist_all_gather_func"):
        setattr(param_and_grad_buffer, name, _unless_alone(getattr(param_and_grad_buffer, name)))


def _unless_alone(collective: Callable[..., Any]) -> Callable[..., Any]:
    """The collective, which does nothing where its output is all of its input and no other rank takes part."""

    @functools.wraps(collective)
    def call(output: torch.Tensor, given: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        alone = dist.get_world_size(kwargs.get("group")) == 1 and not kwargs.get("async_op")
        if alone and output.data_ptr() == given.data_ptr() and output.numel() == given.numel():
            return None
        return collective(output, given, *args, **kwargs)

    return call
