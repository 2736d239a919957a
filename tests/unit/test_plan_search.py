"""The search for the best layouts: no preset beats it, all rows fit, and all can be launched."""

from __future__ import annotations

import importlib.util

import pytest

from alphamed_nemo import devices
from alphamed_nemo.cli import preflight
from alphamed_nemo.config import Config
from alphamed_nemo.config.layout import check_layout, check_microbatch
from alphamed_nemo.config.limits import check_training_values, check_values
from alphamed_nemo.launch.allocation import Allocation, place
from alphamed_nemo.plan import search as searching
from alphamed_nemo.plan.bottleneck import limited_by
from alphamed_nemo.plan.changes import Advice, apply
from alphamed_nemo.plan.prediction import make_plan
from alphamed_nemo.plan.search import present, search
from alphamed_nemo.plan.search_text import search_text
from alphamed_nemo.plan.sizes import Model, load_model
from tests.unit.test_plan_step import experiment

GPUS = 16


@pytest.fixture(scope="module")
def cfg() -> Config:
    return experiment("grpo_8b", "plan.gpu=h100")


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("Llama-3.1-8B-Instruct")


@pytest.fixture(scope="module")
def found(cfg: Config, model: Model) -> list[Advice]:
    return search(cfg, model, GPUS)


def test_the_best_is_at_least_as_good_as_the_preset(cfg: Config, model: Model, found: list[Advice]) -> None:
    preset = make_plan(present(cfg, GPUS), model)
    speeds = [advice.plan.tokens_per_s_per_gpu for advice in found]
    assert speeds[0] >= preset.tokens_per_s_per_gpu
    assert speeds == sorted(speeds, key=lambda speed: -round(speed))
    on_policy = [a.plan for a in found if not a.plan.cfg.model.fp8 and not a.plan.cfg.grpo.staleness]
    assert max(plan.tokens_per_s_per_gpu for plan in on_policy) >= preset.tokens_per_s_per_gpu


def test_every_row_fits_and_uses_the_whole_cluster(cfg: Config, model: Model, found: list[Advice]) -> None:
    assert {advice.plan.cfg.rollout.placement for advice in found} == {"colocated", "separate"}
    assert {advice.plan.cfg.model.fp8 for advice in found} == {"", "e4m3"}
    for advice in found:
        again = make_plan(apply(cfg, advice.change), model)
        assert again.fits and all(memory.fits for memory in again.memory)
        assert again.cluster.gpus == GPUS and again.step == advice.plan.step


def test_every_row_can_be_launched(model: Model, found: list[Advice], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())  # Transformer Engine is installed there
    job = Allocation(nodes=("a", "b"), gpus=8, cpus=64, rollout_nodes=None, port=1, attempt="1", card="h100")
    for advice in found:
        cfg = advice.plan.cfg
        check_values(cfg)
        check_training_values(cfg)
        preflight.check_devices(cfg)
        check_layout(cfg.parallel, model.heads, model.kv_heads, model.ffn, model.layers)
        check_microbatch(cfg.parallel, cfg.grpo.tokens_per_microbatch)
        places = place(apply(cfg, {"rollout.engines": cfg.rollout.engines}), job)
        assert places.idle == 0 and places.ranks * len(places.training) == cfg.parallel.world_size


def test_the_precision_of_the_search_is_the_preset_of_that_name() -> None:
    preset, plain = experiment("grpo_8b", "precision=fp8_block"), experiment("grpo_8b")
    assert apply(plain, searching.FP8).model == preset.model
    assert apply(plain, searching.FP8).rollout == preset.rollout
    assert apply(plain, searching.FP8).grpo == preset.grpo


def test_the_table_has_the_present_settings_five_layouts_and_the_best_of_the_same_method(
    cfg: Config, found: list[Advice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alphamed_nemo.plan.search_text.search", lambda *_: found)
    cfg = apply(cfg, {"plan.gpus": GPUS})
    table, settings = search_text(cfg).split("Settings of each:\n")
    rows = [line.split()[0] for line in table.splitlines()[3:] if line]
    assert rows[:6] == ["now", "1", "2", "3", "4", "5"] and "same" in rows
    for advice, line in zip(found[:5], settings.splitlines()[:5], strict=True):
        changed = dict(word.split("=") for word in line.split(": ", 1)[1].split())
        assert changed.items() <= {name: _written(value) for name, value in advice.change.items()}.items()


def _written(value: object) -> str:
    return "null" if value is None else str(value).lower()


def test_the_longest_phase_is_what_limits(cfg: Config, model: Model) -> None:
    slow_products = apply(cfg, {"plan.compute_efficiency": 0.02})
    assert limited_by(make_plan(slow_products, model)).endswith(": matrix products")
    long_tail = apply(cfg, {"grpo.questions_per_step": 4, "plan.bf16_tflops": 1e5})
    assert limited_by(make_plan(long_tail, model)).endswith(": the longest response")


def test_settings_that_cannot_use_the_cluster_are_named(cfg: Config) -> None:
    with pytest.raises(ValueError, match="plan.gpus: found 9, of which 9 train; expected a multiple of .* = 2"):
        present(cfg, 9)
