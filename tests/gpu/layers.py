"""Log-probs of the policy's layers against transformers', of head and vocabulary against float64, and FP8's."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from alphamed_nemo.config import ModelConfig
from alphamed_nemo.policy.float32_head import float32_logits
from alphamed_nemo.policy.logprobs import token_logprobs
from alphamed_nemo.policy.packing import TrainSequence
from tests.gpu import workload
from tests.gpu.bench import Bench

FP8 = [("hybrid", "delayed"), ("hybrid", "current"), ("e4m3", "blockwise")]
LIMIT = 1024  # tokens of a pack


def local_layers(bench: Bench) -> None:
    """The layers without Transformer Engine are no further from float32 than twice what transformers' own are."""
    folder, rows, exact = reference(bench)
    in_float32 = workload.policy_logprobs(folder, ModelConfig(dtype="float32", spec="local"), rows, LIMIT)
    error = float((in_float32 - exact).abs().max())
    bench.row("largest difference of log-probs to transformers, float32", f"{error:.1e}")
    assert error < 1e-3
    compare(bench, folder, rows, exact, "local")


def transformer_engine(bench: Bench) -> None:
    """The same for Transformer Engine's layers, and FP8 in three recipes within the gate of its presets."""
    if importlib.util.find_spec("transformer_engine") is None:
        bench.row("not run", "Transformer Engine is not installed")
        return
    folder, rows, exact = reference(bench)
    compare(bench, folder, rows, exact, "transformer_engine")
    plain = ModelConfig(dtype="bfloat16", spec="transformer_engine", max_length=4096)
    bf16 = workload.policy_logprobs(folder, plain, rows, LIMIT)
    for fp8, recipe in FP8:
        model = ModelConfig(dtype="bfloat16", spec="transformer_engine", fp8=fp8, fp8_recipe=recipe)
        error = workload.mult_prob_error(workload.policy_logprobs(folder, model, rows, LIMIT), bf16)
        bench.row(f"token_mult_prob_error of FP8 {fp8}, {recipe} scaling, to BF16", f"{error:.5f}")
        assert error < 1.1


def reference(bench: Bench) -> tuple[Path, list[TrainSequence], Tensor]:
    """A model with random weights, sequences, and transformers' log-probs in float32."""
    size = "tiny" if bench.dry else "0.5B"
    folder = workload.write_model(bench.folder / "model", size)
    rows = workload.sequences(3, 8, 16, 512) if bench.dry else workload.sequences(8, 256, 512, workload.VOCAB)
    return folder, rows, workload.transformers_logprobs(folder, rows, torch.float32)


def compare(bench: Bench, folder: Path, rows: list[TrainSequence], exact: Tensor, spec: str) -> None:
    theirs = workload.mult_prob_error(workload.transformers_logprobs(folder, rows, torch.bfloat16), exact)
    model = ModelConfig(dtype="bfloat16", spec=spec, max_length=4096)
    own = workload.mult_prob_error(workload.policy_logprobs(folder, model, rows, LIMIT), exact)
    bench.row("token_mult_prob_error to float32, transformers in BF16", f"{theirs:.5f}")
    bench.row(f"token_mult_prob_error to float32, {spec} in BF16", f"{own:.5f}")
    assert own < 1.05 and own - 1 < 2 * (theirs - 1) + 1e-4


def timed_logprobs(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, float, float]:
    """(log-probs, seconds of the forward pass, of the backward pass); the gradient takes the place of the logits."""
    workload.synchronize()
    started = time.perf_counter()
    found, entropy = token_logprobs(logits, targets, logits.shape[1], overwrite=True)
    workload.synchronize()
    half = time.perf_counter()
    ((found * weights).sum() + 0.01 * entropy.sum()).backward()
    workload.synchronize()
    return found.detach(), half - started, time.perf_counter() - half


def vocabulary(bench: Bench) -> None:
    """8,192 tokens of a vocabulary of 128,256: log-probs and gradients against float64, memory and time."""
    tokens, vocab = (64, 1000) if bench.dry else (8192, 128256)
    device = "cpu" if bench.dry else "cuda"
    torch.manual_seed(0)
    logits = (torch.randn(tokens, vocab, device=device) * 4).bfloat16()
    targets = torch.randint(0, vocab, (tokens,), device=device)
    weights = torch.randn(tokens, device=device)
    some = torch.linspace(0, tokens - 1, 32, device=device).long()
    exact = logits[some].double().requires_grad_()
    log_p = exact.log_softmax(dim=1)
    expected = log_p.gather(1, targets[some, None]).squeeze(1)
    ((expected * weights[some]).sum() - 0.01 * (log_p.exp() * log_p).sum()).backward()
    assert exact.grad is not None

    logits.requires_grad_()
    workload.free()
    before = workload.allocated()
    found, forward, backward = timed_logprobs(logits, targets, weights)
    extra = workload.peak() - before
    assert logits.grad is not None
    error = float((found[some].double() - expected.detach()).abs().max())
    off = float((logits.grad[some].double() - exact.grad).norm() / exact.grad.norm())
    bench.row(f"token log-probs, {tokens:,} × {vocab:,}: largest error to float64", f"{error:.1e}")
    bench.row("relative error of the gradient (BF16 itself: about 2e-3)", f"{off:.1e}")
    bench.row("forward, backward", f"{forward * 1e3:.1f} ms, {backward * 1e3:.1f} ms")
    bench.row("memory beyond the logits", f"{extra / 2**30:.2f} GiB; the logits: {logits.nbytes / 2**30:.2f} GiB")
    assert error < 1e-3 and off < 1e-2


def float32_head(bench: Bench) -> None:
    """The product of 8B's output layer for 4,096 tokens, with logits in BF16 and in float32: error, gradient, time."""
    tokens, hidden, vocab = (64, 128, 1000) if bench.dry else (4096, 4096, 128256)
    device = "cpu" if bench.dry else "cuda"
    torch.manual_seed(0)
    states = torch.randn(tokens, 1, hidden, device=device).bfloat16()
    weight = (5 / hidden**0.5 * torch.randn(vocab, hidden, device=device)).bfloat16()  # logits to about 25
    some = torch.linspace(0, tokens - 1, 32, device=device).long()
    exact = states[some].double() @ weight.double().t()
    alone = {"allreduce_dgrad": False, "sequence_parallel": False, "tp_group": None}
    products = {"BF16": F.linear, "float32": lambda states, weight: float32_logits(states, weight, **alone)}
    gradients = {}
    for name, product in products.items():
        inputs = [each.detach().requires_grad_() for each in (states, weight)]
        seconds = []
        for _ in range(2):  # the first loads the kernel
            workload.free()
            workload.synchronize()
            started = time.perf_counter()
            logits = product(*inputs)
            workload.synchronize()
            half = time.perf_counter()
            of_inputs = torch.autograd.grad(logits, inputs, torch.ones_like(logits))
            workload.synchronize()
            seconds = [half - started, time.perf_counter() - half]
        error = float((logits[some].double() - exact).detach().abs().max())
        gradients[name] = of_inputs
        forward, backward = (f"{each * 1e3:.1f} ms" for each in seconds)
        bench.row(f"logits in {name}: largest error to float64", f"{error:.1e}, to {float(exact.abs().max()):.0f}")
        bench.row(
            f"logits in {name}: forward, backward, most memory",
            f"{forward}, {backward}, {workload.peak() / 2**30:.2f} GiB",
        )
        assert error < (1e-4 if name == "float32" else 0.1)
    for first, second in zip(*gradients.values(), strict=True):
        assert float((first - second).norm()) <= 1e-2 * float(first.norm())
