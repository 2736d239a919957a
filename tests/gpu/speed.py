"""Training steps of true dimensions, by precision and fusion, and GRPO with invented rollouts."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import torch

from alphamed_nemo.config import GrpoConfig, ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.config.choices import Fusion, names
from alphamed_nemo.grpo.advantages import advantages
from alphamed_nemo.grpo.aggregation import BatchTotals
from alphamed_nemo.grpo.loss import GrpoLoss
from alphamed_nemo.policy.packing import TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from tests.gpu import workload
from tests.gpu.bench import Bench

UPDATES = 6
QUESTIONS, SAMPLES = 8, 4


def train_speed(bench: Bench) -> None:
    """Eight layers of an 8B model on packs of 8,192 tokens: speed, share of the peak, memory against the plan, and
    how often the host waits for the GPU, with each fusion and in FP8."""
    size = "tiny" if bench.dry else "8B, 8 layers"
    folder = workload.write_config(bench.folder / "model", size)
    has_te = importlib.util.find_spec("transformer_engine") is not None
    plain = ModelConfig(dtype="bfloat16", spec="transformer_engine" if has_te and not bench.dry else "local")
    choices: dict[str, ModelConfig] = {f"BF16, {plain.spec}": plain}
    choices["BF16, head_dtype=float32"] = replace(plain, head_dtype="float32")
    choices["BF16, recompute=selective"] = replace(plain, recompute="selective")
    if plain.spec == "transformer_engine":
        for fusion in names(Fusion):
            choices[f"BF16, fusions=[{fusion}]"] = replace(plain, fusions=[fusion])
        for fp8, recipe in (("hybrid", "current"), ("hybrid", "delayed"), ("e4m3", "blockwise")):
            choices[f"FP8 {fp8}, {recipe}"] = replace(plain, fp8=fp8, fp8_recipe=recipe)
    shape = (4, 8, 16, 128) if bench.dry else (32, 256, 768, 8192)
    failed = []
    for name, model in choices.items():
        try:
            speed = workload.train_speed(folder, model, *shape)
        except Exception as error:  # a fusion whose kernel is not built says nothing of the others
            failed.append(name)
            bench.row(name, f"FAILED: {type(error).__name__} {str(error).splitlines()[:1]}")
            workload.free()
            continue
        bench.row(
            name,
            f"{speed.tokens_per_s:,.0f} tokens/s, {speed.utilisation:.1%} of 989 TFLOP/s, {speed.peak_gib:.1f} GiB at "
            f"most ({speed.planned_gib:.1f} planned), {speed.host_stops} host stops in a step",
        )
    assert not failed, f"failed: {', '.join(failed)}"


def grpo(bench: Bench) -> None:
    """The tiny model with GRPO's own loss, and rollouts drawn at random: what is rewarded becomes more probable."""
    folder = workload.write_config(bench.folder / "model", "tiny")
    model, optim = ModelConfig(dtype="bfloat16"), OptimConfig(lr=3e-3)
    policy = MegatronPolicy(model, ParallelConfig(), optim, folder, random_seed=1)
    generator = torch.Generator().manual_seed(2)
    margins = []
    for _ in range(UPDATES):
        rows = rollouts(generator)
        batches = pack(rows, 512)
        old = policy.logprobs(batches, workload.TEMPERATURE)
        values = torch.cat([logprobs[batch.mask] for logprobs, batch in zip(old, batches, strict=True)])
        rewarded = torch.cat([batch.advantages[batch.mask] > 0 for batch in batches])
        margins.append(float(values[rewarded].mean() - values[~rewarded].mean()))
        for batch, logprobs in zip(batches, old, strict=True):
            batch.old_logprobs = logprobs
        policy.train_step(batches, GrpoLoss(GrpoConfig(), BatchTotals.of(rows)), workload.TEMPERATURE)
    policy.check_weights()
    first, last = margins[0], margins[-1]
    what = f"mean log-prob of rewarded tokens above that of others, before and after {UPDATES - 1} updates"
    bench.row(what, f"{first:.2f}, {last:.2f}")
    assert last > first + 0.1


def rollouts(generator: torch.Generator) -> list[TrainSequence]:
    """Groups of random responses; one is right if all its tokens are of the lower half of the vocabulary."""
    rows = []
    for _ in range(QUESTIONS):
        prompt = torch.randint(0, 512, (8,), generator=generator).tolist()
        half = [sample % 2 for sample in range(SAMPLES)]
        responses = [(torch.randint(0, 256, (16,), generator=generator) + 256 * above).tolist() for above in half]
        scores = advantages([1.0 - above for above in half], GrpoConfig())
        rows += [TrainSequence(prompt, ids, score) for ids, score in zip(responses, scores, strict=True)]
    return rows
