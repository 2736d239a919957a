"""What `auto` becomes on each kind of machine and in a run that has trained already, and what is said of it."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from alphamed_nemo import devices
from alphamed_nemo.cli.dtypes import settle_dtypes
from alphamed_nemo.cli.recipe import guarded
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.launch.components import announce_processor
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.processor import Processor
from tests.stand_in_checkpoint import write_checkpoint

AVX2 = Processor("Old", 2, ("AVX2",))
AVX512 = Processor("Middle", 2, ("AVX2", "AVX-512"))
AMX = Processor("New", 2, ("AVX2", "AVX-512", "AVX-512 BF16", "AMX"))


@pytest.fixture
def cpu_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and two cores."""
    monkeypatch.setattr(devices, "cuda_is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = Config()
    cfg.run.dir = str(tmp_path)
    return cfg


def settled(cfg: Config, processor: Processor = AVX2, cuda: bool = False) -> tuple[str, str]:
    settle_dtypes(cfg, cuda, processor)
    return cfg.model.dtype, cfg.rollout.dtype


def checkpoint(cfg: Config, step: int, **about: object) -> None:
    write_checkpoint(RunFolder.of(cfg).checkpoints / f"step_{step}", {"step": step}, **about)


@pytest.mark.parametrize(
    ("processor", "cuda", "dtype"),
    [
        (AVX2, False, "float32"),
        (AVX512, False, "float32"),
        (AMX, False, "bfloat16"),
        (Processor("Unknown", 2, ()), False, "float32"),
        (AVX2, True, "bfloat16"),
    ],
)
def test_auto_is_what_the_machine_computes_fastest_in(cfg: Config, processor: Processor, cuda: bool, dtype: str):
    assert (cfg.model.dtype, cfg.rollout.dtype) == ("auto", "auto")
    assert settled(cfg, processor, cuda) == (dtype, dtype)


@pytest.mark.parametrize("processor", [AVX2, AMX])
def test_what_is_asked_for_stays_and_rollouts_follow_the_model(cfg: Config, processor: Processor):
    cfg.model.dtype = "float32"
    assert settled(cfg, processor) == ("float32", "float32")
    cfg.model.dtype, cfg.rollout.dtype = "float32", "bfloat16"
    assert settled(cfg, processor) == ("float32", "bfloat16")


@pytest.mark.parametrize(("stored", "processor"), [("bfloat16", AVX2), ("float32", AMX)])
def test_a_run_that_resumes_on_another_processor_keeps_its_dtype(cfg: Config, stored: str, processor: Processor):
    other = replace(cfg, model=replace(cfg.model))
    checkpoint(cfg, 9, dtype="float32" if stored == "bfloat16" else "bfloat16")
    checkpoint(cfg, 10, dtype=stored)
    RunFolder.of(cfg).checkpoints.joinpath("step_11").mkdir()  # without a manifest: not a whole one
    assert settled(cfg, processor) == (stored, stored)
    other.run.resume = False
    other.rollout.dtype = "auto"
    assert settled(other, processor)[0] == processor.fastest_dtype


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"dtype": "float32"}'])
def test_a_damaged_manifest_is_left_to_the_checks(cfg: Config, content: str):
    checkpoint(cfg, 1, dtype="bfloat16")
    checkpoint(cfg, 2, dtype="float32")
    other = replace(cfg, model=replace(cfg.model), rollout=replace(cfg.rollout))
    for step, expected in ((2, "bfloat16"), (1, "float32")):
        (RunFolder.of(cfg).checkpoints / f"step_{step}" / manifest.NAME).write_text(content)
        assert settled(replace(other, model=replace(other.model)))[0] == expected


def test_a_recipe_settles_it_before_it_does_anything(cfg: Config):
    def main(seen: Config) -> None:
        write_config(seen, RunFolder.of(seen).config)

    from omegaconf import OmegaConf

    guarded(main, OmegaConf.create(asdict(cfg)), on_gpus=lambda: True)
    kept = load_config(RunFolder.of(cfg).config)
    assert (kept.model.dtype, kept.rollout.dtype) == ("bfloat16", "bfloat16")


@pytest.mark.parametrize(("processor", "times"), [(AVX2, "8 times"), (AVX512, "3 times"), (AMX, "")])
def test_slow_bfloat16_is_a_warning_with_its_factor(cfg: Config, processor: Processor, times: str, caplog, cpu_host):
    cfg.model.dtype = "bfloat16"
    settle_dtypes(cfg, False, processor)
    with caplog.at_level(logging.INFO):
        announce_processor(cfg, processor)
    said, *warnings = caplog.records
    assert str(processor) in said.getMessage() and "1 × 2 threads" in said.getMessage()
    assert [record.levelname for record in warnings] == ["WARNING"] * bool(times)
    assert all(f"model.dtype and rollout.dtype: bfloat16 takes about {times}" in each.getMessage() for each in warnings)


def test_float32_is_no_warning(cfg: Config, caplog, cpu_host):
    settle_dtypes(cfg, False, AVX2)
    announce_processor(cfg, AVX2)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
