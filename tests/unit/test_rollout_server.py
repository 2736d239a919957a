"""The server's command line and environment, and what is refused before a process starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.config.choices import Placement
from alphamed_nemo.rollout.inside_vllm.room import ROOM
from alphamed_nemo.rollout.vllm_command import new_api_key, resolve_transfer, vllm_command


def settled() -> Config:
    """The defaults, with the dtypes that a recipe would have settled."""
    cfg = Config()
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    return cfg


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 128, "num_attention_heads": 4}))
    return tmp_path


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_the_command_carries_the_config(model: Path):
    cfg = settled()
    cfg.model.max_length, cfg.run.seed = 300, 9
    cfg.rollout.memory_gb, cfg.rollout.max_num_seqs, cfg.rollout.extra_args = 0.25, 17, ["--swap-x", "1"]
    argv, env = vllm_command(cfg, model, 4321, "the-key", cuda=False)
    assert option(argv, "--model") == str(model)
    assert option(argv, "--port") == "4321"
    assert option(argv, "--host") == "127.0.0.1"
    assert option(argv, "--max-model-len") == "300"
    assert option(argv, "--max-num-seqs") == "17"
    assert option(argv, "--seed") == "9"
    assert option(argv, "--kv-cache-memory-bytes") == str(2**28)
    assert json.loads(option(argv, "--weight-transfer-config")) == {"backend": "alphamed_shm"}
    assert argv[-2:] == ["--swap-x", "1"]
    assert env["VLLM_SERVER_DEV_MODE"] == "1"


def test_a_float32_head_is_asked_of_vllm_too(model: Path):
    cfg = settled()
    assert "--hf-overrides" not in vllm_command(cfg, model, 1, "k", cuda=False)[0]
    cfg.model.head_dtype = "float32"
    for cuda in (False, True):
        argv, _ = vllm_command(cfg, model, 1, "k", cuda=cuda)
        assert json.loads(option(argv, "--hf-overrides")) == {"head_dtype": "float32"}


def test_threads_are_all_cores_but_one_unless_they_are_given(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(9)))
    cfg = settled()
    assert vllm_command(cfg, model, 1, "k", cuda=False)[1]["OMP_NUM_THREADS"] == "8"
    cfg.rollout.tensor = 2
    assert vllm_command(cfg, model, 1, "k", cuda=False)[1]["OMP_NUM_THREADS"] == "4"
    cfg.rollout.threads = 3
    assert vllm_command(cfg, model, 1, "k", cuda=False)[1]["OMP_NUM_THREADS"] == "3"


def test_several_engines_share_the_cores(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    cfg = settled()
    cfg.rollout.engines = 4
    argv, env = vllm_command(cfg, model, 1, "k", cuda=False)
    assert option(argv, "--data-parallel-size") == "4"
    assert env["OMP_NUM_THREADS"] == "2"
    argv, _ = vllm_command(cfg, model, 1, "k", cuda=True)
    assert option(argv, "--data-parallel-size") == "4"
    assert "--data-parallel-size" not in vllm_command(settled(), model, 1, "k", cuda=False)[0]


@pytest.mark.parametrize(("api_servers", "cuda", "expected"), [(0, False, "1"), (0, True, "8"), (2, True, "2")])
def test_there_is_an_http_process_for_each_gpu(model: Path, api_servers: int, cuda: bool, expected: str):
    cfg = settled()
    cfg.rollout.tensor, cfg.rollout.engines, cfg.rollout.api_servers = 2, 4, api_servers
    assert option(vllm_command(cfg, model, 1, "k", cuda=cuda)[0], "--api-server-count") == expected


def test_statistics_are_kept_unless_they_are_refused(model: Path):
    cfg = settled()
    assert "--disable-log-stats" not in vllm_command(cfg, model, 1, "k", cuda=True)[0]
    cfg.rollout.log_stats = False
    assert "--disable-log-stats" in vllm_command(cfg, model, 1, "k", cuda=True)[0]


def test_the_key_is_in_the_environment_and_not_on_the_command_line(model: Path):
    argv, env = vllm_command(settled(), model, 1, "the-key", cuda=False)
    assert env["VLLM_API_KEY"] == "the-key"
    assert not any("the-key" in word for word in argv)
    assert len(new_api_key()) >= 32
    assert new_api_key() != new_api_key()


def test_the_front_that_knows_no_middleware_is_not_used(model: Path, monkeypatch: pytest.MonkeyPatch):
    """It would answer without the key."""
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    _, env = vllm_command(settled(), model, 1, "k", cuda=True)
    assert (os.environ | env)["VLLM_USE_RUST_FRONTEND"] == "0"


def test_only_this_projects_plugin_is_loaded(model: Path):
    """NeMo registers a vLLM plugin, which costs ten seconds in each process."""
    _, env = vllm_command(settled(), model, 1, "k", cuda=False)
    assert env["VLLM_PLUGINS"] == "alphamed_shm_transfer"


def test_a_gpu_server_compiles_and_takes_its_share_of_the_device(model: Path):
    cfg = settled()
    cfg.rollout.tensor, cfg.rollout.placement = 4, "separate"
    argv, env = vllm_command(cfg, model, 1, "k", cuda=True)
    assert "--enforce-eager" not in argv
    assert option(argv, "--gpu-memory-utilization") == "0.85"
    assert option(argv, "--tensor-parallel-size") == "4"
    assert json.loads(option(argv, "--weight-transfer-config")) == {"backend": "alphamed_nccl"}
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in env
    assert "--enable-sleep-mode" not in argv and "--quantization" not in argv and ROOM not in env
    cfg.rollout.placement, cfg.rollout.quantization = "colocated", "fp8"
    argv, env = vllm_command(cfg, model, 1, "k", cuda=True)
    assert json.loads(option(argv, "--weight-transfer-config")) == {"backend": "alphamed_ipc"}
    assert env[ROOM] == "0.85"  # it waits for as much, should the trainer have it when it is started again
    assert env["VLLM_ALLOW_INSECURE_SERIALIZATION"] == "1"
    assert "--enable-sleep-mode" in argv and option(argv, "--quantization") == "fp8"


@pytest.mark.parametrize(
    ("transfer", "cuda", "placement", "expected"),
    [
        ("auto", False, "colocated", "shm"),
        ("auto", True, "colocated", "ipc"),
        ("auto", True, "separate", "nccl"),
        ("shm", False, "colocated", "shm"),
        ("ipc", True, "colocated", "ipc"),
        ("nccl", True, "separate", "nccl"),
    ],
)
def test_the_carrier_follows_hardware_and_placement(transfer: str, cuda: bool, placement: Placement, expected: str):
    assert resolve_transfer(transfer, cuda, placement) == expected


@pytest.mark.parametrize(("transfer", "placement"), [("nccl", "colocated"), ("ipc", "separate")])
def test_a_carrier_of_another_placement_is_refused(transfer: str, placement: Placement):
    with pytest.raises(ValueError, match=f"found {transfer} with rollout.placement={placement}"):
        resolve_transfer(transfer, True, placement)


@pytest.mark.parametrize(
    ("transfer", "cuda"), [("shm", True), ("nccl", False), ("ipc", False), ("carrier-pigeon", True)]
)
def test_a_carrier_that_cannot_work_is_refused(transfer: str, cuda: bool):
    with pytest.raises(ValueError, match="rollout.transfer"):
        resolve_transfer(transfer, cuda, "colocated")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "[::]"])
def test_all_interfaces_are_refused(model: Path, host: str):
    with pytest.raises(ValueError, match="rollout.host"):
        vllm_command(settled(), model, 1, "k", host=host, cuda=False)


def test_an_empty_key_is_refused(model: Path):
    with pytest.raises(ValueError, match="rollout.api_key"):
        vllm_command(settled(), model, 1, "", cuda=False)


def test_heads_that_the_cpu_attention_does_not_know_are_refused(model: Path):
    (model / "config.json").write_text(json.dumps({"hidden_size": 64, "num_attention_heads": 4}))
    with pytest.raises(ValueError, match="heads of size 16"):
        vllm_command(settled(), model, 1, "k", cuda=False)
    vllm_command(settled(), model, 1, "k", cuda=True)


def test_a_folder_without_a_config_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="has no config.json"):
        vllm_command(settled(), tmp_path, 1, "k", cuda=False)
