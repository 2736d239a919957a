"""Command lines of a run's components: loopback, free ports, and no secret where others can read it."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from alphamed_nemo import devices
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.components import Component, free_port, reward_server, rollout_server, trainer
from alphamed_nemo.launch.local import Launcher


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    (tmp_path / "config.json").write_text(json.dumps({"head_dim": 32}))
    cfg = Config()
    cfg.model.path, cfg.run.dir = str(tmp_path), str(tmp_path / "runs")
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    return cfg


def all_components(cfg: Config) -> list[Component]:
    return [rollout_server(cfg, cfg.model.path), reward_server(cfg), trainer(cfg)]


def test_a_free_port_can_be_bound() -> None:
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
    assert port > 0


def test_servers_listen_on_loopback_and_their_urls_go_into_the_config(cfg: Config) -> None:
    vllm, reward, _ = all_components(cfg)
    for component, url in ((vllm, cfg.rollout.url), (reward, cfg.reward.url)):
        assert url.startswith("http://127.0.0.1:") and component.health == f"{url}/health"
        assert component.argv[component.argv.index("--host") + 1] == "127.0.0.1"
        assert component.argv[component.argv.index("--port") + 1] == url.rpartition(":")[2]


def test_keys_are_random_travel_in_the_environment_and_reach_the_trainer(cfg: Config, monkeypatch) -> None:
    components = all_components(cfg)
    keys = {cfg.rollout.api_key, cfg.reward.api_key}
    assert len(keys) == 2 and min(map(len, keys)) >= 32
    for component in components:
        assert not any(key in argument for key in keys for argument in component.argv)
    write_config(cfg, RunFolder.of(cfg).config)
    for name, value in components[2].env.items():
        monkeypatch.setenv(name, value)
    assert load_config(RunFolder.of(cfg).config) == cfg


def test_ports_and_keys_that_are_set_are_kept(cfg: Config) -> None:
    cfg.reward.port, cfg.reward.api_key = 8123, "mine"
    component = reward_server(cfg)
    assert cfg.reward.url == "http://127.0.0.1:8123"
    assert component.env == {"ALPHAMED_REWARD_API_KEY": "mine"}


def test_one_rank_needs_no_torchrun_and_knows_that_it_is_alone(cfg: Config) -> None:
    component = trainer(cfg)
    assert component.argv[1:-1] == ["-m", "alphamed_nemo.grpo.worker"]
    expected = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    assert component.env.items() >= expected.items() and int(component.env["MASTER_PORT"]) > 0
    assert int(component.env["OMP_NUM_THREADS"]) == len(os.sched_getaffinity(0))
    assert component.argv[-1] == str(RunFolder.of(cfg).config)


def test_ranks_with_gpus_are_torchruns_since_cuda_cannot_be_forked(cfg: Config, monkeypatch) -> None:
    monkeypatch.setattr(devices, "cuda_is_available", lambda: True)
    cfg.parallel.tensor = 2
    words = trainer(cfg).argv[1:]
    assert words[:3] == ["-m", "torch.distributed.run", "--nproc-per-node=2"] and "--master-addr=127.0.0.1" in words
    assert words[-3:] == ["-m", "alphamed_nemo.grpo.worker", str(RunFolder.of(cfg).config)]


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 2), (2, 2), (2, 64)])
def test_the_trainers_ranks_share_the_cores_and_stay_on_loopback(cfg: Config, tensor: int, pipeline: int) -> None:
    cfg.parallel.tensor, cfg.parallel.pipeline = tensor, pipeline
    component = trainer(cfg)
    ranks, cores = tensor * pipeline, len(os.sched_getaffinity(0))
    words = component.argv[1:]
    assert words[:3] == ["-m", "alphamed_nemo.launch.ranks", str(ranks)] and words[4] == "alphamed_nemo.grpo.worker"
    assert int(component.env["OMP_NUM_THREADS"]) == max(1, cores // ranks)
    assert component.env["GLOO_SOCKET_IFNAME"] == "lo"
    assert component.argv[-1] == str(RunFolder.of(cfg).config)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("from argparse import *; ArgumentParser().parse_args(['--swp'])", ": unrecognized arguments: --swp"),
        ("import sys; print('loading'); sys.exit(2)", ""),
    ],
)
def test_a_component_that_refuses_its_command_line_is_told_of_in_one_line(
    tmp_path: Path, program: str, reason: str
) -> None:
    with Launcher(tmp_path) as launcher:
        launcher.start(Component("vllm", [sys.executable, "-IS", "-c", program]))
        with pytest.raises(ComponentError) as caught:
            launcher.wait("vllm")
    assert str(caught.value).splitlines()[0] == f"vllm ended with status 2{reason}"
