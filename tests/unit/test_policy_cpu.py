"""Each effect of the CPU shim, in a process of its own: the shim changes torch for the whole process."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.spawn import spawn

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the shim is for machines without CUDA")


def install() -> None:
    from alphamed_nemo.policy.local import cuda_on_cpu as cpu

    cpu.install()
    cpu.install()  # a second call changes nothing


def devices() -> list[str]:
    install()
    torch.cuda.set_device(0)
    return [
        str(torch.cuda.current_device()),
        str(torch.zeros(2, device="cuda").device),
        str(torch.tensor([1.0], device=torch.device("cuda", 3)).device),
        str(torch.empty_like(torch.ones(2), device="cuda").device),
        str(torch.empty(2, device="meta").device),
    ]


def test_cuda_devices_mean_the_cpu():
    assert spawn(devices, 1) == [["cpu", "cpu", "cpu", "cpu", "meta"]]


def moves() -> list[bool]:
    install()
    tensor, module = torch.ones(2), torch.nn.Linear(2, 2)
    pinned = torch.tensor([0, 1], device="cpu", pin_memory=True)
    return [tensor.cuda() is tensor, tensor.cuda(non_blocking=True) is tensor, module.cuda() is module, pinned[1] == 1]


def test_moving_to_the_gpu_changes_nothing():
    assert all(spawn(moves, 1)[0])


def streams() -> int:
    install()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        torch.cuda.Event(enable_timing=True).record()
    return 1


def test_streams_and_events_do_nothing():
    assert spawn(streams, 1) == [1]


def random_states() -> list[bool]:
    install()
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    torch.cuda.manual_seed(7)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
    seeded = torch.equal(torch.rand(3), expected)

    state = torch.cuda.get_rng_state()
    first = torch.rand(3)
    torch.cuda.set_rng_state(state)
    restored = torch.equal(torch.rand(3), first)

    tracker = CudaRNGStatesTracker()
    tracker.add("weights", 7)
    before = torch.get_rng_state()
    with tracker.fork("weights"):
        forked = torch.equal(torch.rand(3), expected)
    return [seeded, restored, forked, torch.equal(before, torch.get_rng_state())]


def test_the_cuda_generator_is_the_cpu_generator():
    assert spawn(random_states, 1) == [[True] * 4]


def type_names() -> list[object]:
    install()
    return [torch.ones(1).type(), torch.ones(1).bfloat16().type(), torch.ones(1).type(torch.int64).dtype]


def test_type_names_are_those_of_cuda():
    assert spawn(type_names, 1) == [["torch.cuda.FloatTensor", "torch.cuda.BFloat16Tensor", torch.int64]]


def alone() -> tuple[bool, float]:
    """Whether a buffer is as before, and the memory that its reduce-scatter and its all-gather took, as a share."""
    install()
    from megatron.core.distributed import param_and_grad_buffer as megatron

    buffer = torch.arange(2.0**24)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak()
    megatron.dist_reduce_scatter_func(buffer, buffer, op=dist.ReduceOp.SUM, group=dist.group.WORLD, async_op=False)
    megatron.dist_all_gather_func(buffer, buffer, group=dist.group.WORLD, async_op=False)
    taken = (peak() - before) / buffer.nbytes
    return torch.equal(buffer, torch.arange(2.0**24)), taken


def peak() -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_rank_alone_does_not_copy_its_gradients_to_add_them_up():
    ((same, taken),) = spawn(alone, 1)
    assert same and taken < 0.25


def together() -> list[list[float]]:
    install()
    from megatron.core.distributed import param_and_grad_buffer as megatron

    rank = dist.get_rank()
    buffer = torch.tensor([1.0, 2.0, 3.0, 4.0]) * 10**rank
    part = buffer[2 * rank : 2 * rank + 2]
    megatron.dist_reduce_scatter_func(part, buffer, op=dist.ReduceOp.SUM, group=dist.group.WORLD, async_op=False)
    added = part.tolist()
    megatron.dist_all_gather_func(buffer, part, group=dist.group.WORLD, async_op=False)
    return [added, buffer.tolist()]


def test_several_ranks_add_up_their_gradients_and_gather_their_weights():
    everything = [11.0, 22.0, 33.0, 44.0]
    assert spawn(together, 2) == [[everything[:2], everything], [everything[2:], everything]]


def refuse() -> str:
    from alphamed_nemo.policy.local import cuda_on_cpu as cpu

    torch.cuda.is_available = lambda: True
    with pytest.raises(RuntimeError, match="must not be installed") as error:
        cpu.install()
    return str(error.value)


def test_it_is_not_installed_where_there_is_a_gpu():
    assert "CUDA device" in spawn(refuse, 1)[0]
