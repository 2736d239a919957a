"""What a run takes from the site: GPU-hours of whole nodes, disk, and the stages before and after training."""

from __future__ import annotations

import pytest

from alphamed_nemo.cli.derived import fill_lengths
from alphamed_nemo.cli.dtypes import settle_dtypes
from alphamed_nemo.cli.recipe import composed
from alphamed_nemo.config import Config
from alphamed_nemo.plan.asking import asking_seconds, asking_text
from alphamed_nemo.plan.changes import apply
from alphamed_nemo.plan.costs import checkpoint_bytes, checkpoints_kept, disk_bytes, gpu_hours
from alphamed_nemo.plan.prediction import make_plan
from alphamed_nemo.plan.sizes import load_model
from alphamed_nemo.plan.text import plan_text


@pytest.fixture
def cfg() -> Config:
    cfg = composed("plan", ["experiment=grpo_8b"])
    settle_dtypes(cfg, cuda=True)
    fill_lengths(cfg)
    return cfg


def test_gpu_hours_are_of_whole_nodes(cfg: Config) -> None:
    assert gpu_hours(1800, nodes=2, gpus_per_node=8) == 8.0
    plan = make_plan(cfg)
    hours = cfg.grpo.steps * plan.step * plan.cluster.nodes * 8 / 3600
    assert f"{hours:,.0f} GPU-hours" in plan_text(plan, [])


def test_a_checkpoint_is_weights_and_three_float32_copies(cfg: Config) -> None:
    model = load_model("Llama-3.1-8B-Instruct")
    assert checkpoint_bytes(cfg, model) == model.parameters * (2 + 12)
    cfg.grpo.steps, cfg.grpo.save_every, cfg.grpo.keep_checkpoints = 100, 10, 3
    assert checkpoints_kept(cfg) == 6  # three newest, the best, the one resumed from, the one being written
    cfg.grpo.save_every = 50
    assert checkpoints_kept(cfg) == 2  # no more are made
    assert disk_bytes(cfg, model) == 2 * checkpoint_bytes(cfg, model) + 2 * model.parameters


def test_with_lora_a_checkpoint_is_of_the_adapters_and_the_converted_model_is_whole(cfg: Config) -> None:
    model = load_model("Llama-3.1-8B-Instruct")
    cfg = apply(cfg, {"lora.rank": 16})
    h, f, kv = 4096, 14336, 1024
    adapters = 32 * 16 * ((h + h + 2 * kv) + (h + h) + (h + 2 * f) + (f + h))
    assert checkpoint_bytes(cfg, model) == adapters * (2 + 12)
    assert disk_bytes(cfg, model) == checkpoints_kept(cfg) * checkpoint_bytes(cfg, model) + 2 * model.parameters
    assert f"LoRA of rank 16: {adapters:,} parameters are trained" in plan_text(make_plan(cfg), [])


def test_labelling_takes_longer_with_more_samples_and_less_on_more_gpus(cfg: Config) -> None:
    model = load_model("Llama-3.1-8B-Instruct")
    one = asking_seconds(cfg, model, 2000, 2)
    assert asking_seconds(cfg, model, 2000, 4) == pytest.approx(2 * one, rel=0.2)
    assert asking_seconds(apply(cfg, {"plan.gpus_per_node": 4}), model, 2000, 2) == pytest.approx(2 * one, rel=0.2)
    assert "20,335 questions × 5 samples" in asking_text(cfg, "label_difficulty")
    assert "1,000 questions × 1 samples" in asking_text(cfg, "evaluate")


def test_the_longest_sequence_that_fits_does_and_a_longer_one_does_not(cfg: Config) -> None:
    longest = make_plan(cfg).longest
    assert longest >= cfg.model.max_length

    def fits(tokens: int) -> bool:
        lengths = {"model.max_length": tokens, "grpo.tokens_per_microbatch": tokens, "rollout.max_new_tokens": tokens}
        # A batch of such sequences alone: the pack is then as long as the limit.
        workload = {"plan.response_tokens": tokens - 300, "plan.prompt_tokens": 200, "grpo.questions_per_step": 8}
        return make_plan(apply(cfg, lengths | workload)).fits

    assert fits(longest // 2) and not fits(2 * longest)


def test_context_parallelism_is_refused_with_the_longest_sequence_that_fits_without(cfg: Config) -> None:
    longest = make_plan(cfg).longest
    context = apply(cfg, {"parallel.context": 2, "parallel.data": cfg.parallel.data // 2})
    with pytest.raises(ValueError, match=rf"parallel.context: found 2, expected 1: .* up to {longest:,} tokens fit"):
        make_plan(context)
