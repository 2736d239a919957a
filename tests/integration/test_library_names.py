"""Every setting in docs/gpu.md's table reaches the installed library under the name that it has there."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer.transformer_config import TransformerConfig
from transformers import LlamaConfig

from alphamed_nemo.config import Config
from alphamed_nemo.policy import optimizer
from alphamed_nemo.policy.model import transformer_config
from alphamed_nemo.rollout.vllm_command import vllm_command

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
SIZES = LlamaConfig(hidden_size=128, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4, vocab_size=64)
# Another value than the default's, each with what has to go with it.
CHANGED: dict[str, dict[str, Any]] = {
    "model.spec": {"model.spec": "transformer_engine"},
    "model.recompute": {"model.recompute": "full"},
    "model.fp8": {"model.fp8": "e4m3"},
    "model.fp8_recipe": {"model.fp8": "hybrid", "model.fp8_recipe": "blockwise"},
    "model.fusions": {
        "model.spec": "transformer_engine",
        "model.fusions": ["rope", "bias_activation", "bias_dropout", "masked_softmax", "gradient_accumulation"],
    },
    "model.head_dtype": {"model.head_dtype": "float32"},
    "parallel.tensor": {"parallel.tensor": 2},
    "parallel.pipeline": {"parallel.pipeline": 2},
    "parallel.virtual_pipeline": {"parallel.pipeline": 2, "parallel.virtual_pipeline": 2},
    "parallel.sequence": {"parallel.tensor": 2, "parallel.sequence": True},
    "parallel.overlap_grad_reduce": {"parallel.overlap_grad_reduce": True},
    "parallel.overlap_param_gather": {"parallel.overlap_param_gather": True},
    "optim.offload": {"optim.offload": True},
    "rollout.tensor": {"rollout.tensor": 2},
    "rollout.engines": {"rollout.engines": 4},
    "rollout.api_servers": {"rollout.api_servers": 3},
    "rollout.max_num_seqs": {"rollout.max_num_seqs": 7},
    "rollout.gpu_memory_utilization": {"rollout.gpu_memory_utilization": 0.5},
    "rollout.quantization": {"rollout.quantization": "fp8"},
    "rollout.placement": {"rollout.placement": "separate"},
}


@cache
def table() -> dict[str, list[str]]:
    """Setting → the names that the page says."""
    section = PAGE.read_text().split("\n## Names in the libraries\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \| .+? \| (.+) \|$", section, re.MULTILINE)
    return {setting.strip("`"): re.findall(r"`([^`]+)`", names) for setting, names in rows}


def changed_from(names: dict[str, Any]) -> Config:
    cfg = Config()
    cfg.model.dtype = cfg.rollout.dtype = "bfloat16"
    for name, value in names.items():
        group, _, key = name.partition(".")
        assert hasattr(getattr(cfg, group), key), name
        setattr(getattr(cfg, group), key, value)
    return cfg


class Built(Exception):
    """Stands in for building what a configuration describes."""


def caught(builder: str, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> Any:
    """The configuration that policy/optimizer.py hands to Megatron's builder of that name."""

    def stop(*arguments: Any, **_: Any) -> None:
        raise Built(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(optimizer, builder, stop)
        with pytest.raises(Built) as found:
            call()
    return next(each for each in found.value.args if isinstance(each, OptimizerConfig | DistributedDataParallelConfig))


def configurations(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Megatron's three, as the project fills them: CLASS.field → value."""
    transformer = transformer_config(SIZES, cfg.model, cfg.parallel)
    chunk: Any = torch.nn.Module()
    chunk.config = transformer
    overlaps = cfg.parallel.overlap_grad_reduce, cfg.parallel.overlap_param_gather
    ddp = caught("DistributedDataParallel", monkeypatch, lambda: optimizer.wrap([chunk], *overlaps))
    chunk.ddp_config = ddp
    adam = caught("get_megatron_optimizer", monkeypatch, lambda: optimizer.build_optimizer([chunk], cfg.optim))
    assert isinstance(transformer, TransformerConfig)
    return {
        f"{type(each).__name__}.{field.name}": getattr(each, field.name)
        for each in (transformer, ddp, adam)
        for field in dataclasses.fields(each)
    }


def test_the_page_has_every_setting_that_is_tried_here() -> None:
    assert sorted(table()) == sorted(CHANGED)


@pytest.mark.parametrize("setting", [name for name in CHANGED if name.partition(".")[0] != "rollout"])
def test_a_setting_changes_megatrons_fields_of_these_names(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alphamed_nemo.policy.model.spec_name", lambda model: model.spec.replace("auto", "local"))
    for megatrons in (TransformerConfig, OptimizerConfig):  # they ask for Transformer Engine
        monkeypatch.setattr(megatrons, "__post_init__", lambda self: None)
    names = [name for name in table()[setting] if not name.startswith("--")]
    changed = CHANGED[setting]
    plain = configurations(changed_from({key: value for key, value in changed.items() if key != setting}), monkeypatch)
    found = configurations(changed_from(changed), monkeypatch)
    assert {name for name in found if found[name] != plain[name]} == set(names)


@pytest.mark.parametrize("setting", CHANGED)
def test_a_setting_reaches_vllms_parser_under_these_options(setting: str, tmp_path: Path) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    names = [name for name in table()[setting] if name.startswith("--")]
    changed = CHANGED[setting]
    (tmp_path / "config.json").write_text(json.dumps(SIZES.to_dict()))
    parser = make_arg_parser(FlexibleArgumentParser())

    def parsed(cfg: Config) -> dict[str, Any]:
        return vars(parser.parse_args(vllm_command(cfg, tmp_path, 1, "key", cuda=True)[0][3:]))

    plain = parsed(changed_from({key: value for key, value in changed.items() if key != setting}))
    found = parsed(changed_from(changed))
    assert {name for name in found if found[name] != plain[name]} == {name[2:].replace("-", "_") for name in names}
