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
from alphamed_nemo.config.choices import Placement
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.components import (
    PORTS,
    Component,
    free_port,
    gpus_of,
    reward_server,
    rollout_servers,
    trainer,
)
from alphamed_nemo.launch.local import Launcher


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    (tmp_path / "config.json").write_text(json.dumps({"head_dim": 32}))
    cfg = Config()
    cfg.model.path, cfg.run.dir = str(tmp_path), str(tmp_path / "runs")
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    return cfg


def all_components(cfg: Config) -> list[Component]:
    return [*rollout_servers(cfg, cfg.model.path), reward_server(cfg), trainer(cfg)]


def test_a_free_port_can_be_bound_and_is_none_that_the_kernel_gives_away() -> None:
    assert 1024 < PORTS.start and PORTS.stop <= 32_768  # where Linux begins, unless it is set otherwise
    for _ in range(100):
        port = free_port()
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
        assert port in PORTS


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr("alphamed_nemo.launch.components.PORTS", range(port, port + 1))
        monkeypatch.setattr("alphamed_nemo.launch.components.TRIES", 1)
        with pytest.raises(OSError, match=f"no free port on 127.0.0.1 among 1 of {port} to {port}"):
            free_port()


def test_servers_listen_on_loopback_and_their_urls_go_into_the_config(cfg: Config) -> None:
    vllm, reward, _ = all_components(cfg)
    for component, url in ((vllm, cfg.rollout.urls[0]), (reward, cfg.reward.url)):
        assert url.startswith("http://127.0.0.1:") and component.health == f"{url}/health"
        assert component.argv[component.argv.index("--host") + 1] == "127.0.0.1"
        assert component.argv[component.argv.index("--port") + 1] == url.rpartition(":")[2]


def test_several_rollout_servers_have_names_ports_and_one_key(cfg: Config) -> None:
    cfg.rollout.servers = 3
    components = rollout_servers(cfg, cfg.model.path)
    assert [component.name for component in components] == ["vllm-0", "vllm-1", "vllm-2"]
    assert [component.health for component in components] == [f"{url}/health" for url in cfg.rollout.urls]
    assert len(set(cfg.rollout.urls)) == 3
    assert {component.env["VLLM_API_KEY"] for component in components} == {cfg.rollout.api_key}
    cfg.rollout.port = 8100
    rollout_servers(cfg, cfg.model.path)
    assert cfg.rollout.urls == [f"http://127.0.0.1:{port}" for port in (8100, 8101, 8102)]


def test_servers_of_one_machine_share_its_cores(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    cfg.rollout.servers, cfg.rollout.engines = 2, 2
    assert [component.env["OMP_NUM_THREADS"] for component in rollout_servers(cfg, cfg.model.path)] == ["2"] * 2
    cfg.rollout.engines = 1
    assert [component.env["OMP_NUM_THREADS"] for component in rollout_servers(cfg, cfg.model.path)] == ["4"] * 2


@pytest.mark.parametrize(
    ("placement", "visible", "expected"),
    [
        ("separate", "", ["4,5", "6,7"]),  # the trainer's ranks have the first four
        ("colocated", "", ["0,1", "2,3"]),
        ("separate", "8,9,GPU-x,11,12,13", ["GPU-x,11", "12,13"]),
    ],
)
def test_each_server_has_gpus_of_its_own(
    cfg: Config, monkeypatch: pytest.MonkeyPatch, placement: Placement, visible: str, expected: list[str]
) -> None:
    monkeypatch.setattr(devices, "device_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cfg.rollout.placement, cfg.rollout.servers, cfg.rollout.tensor = placement, 2, 2
    assert [",".join(gpus_of(cfg, number)) for number in range(2)] == expected


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


def test_memory_that_another_process_opens_is_not_in_segments_that_grow(cfg: Config, monkeypatch) -> None:
    assert "PYTORCH_CUDA_ALLOC_CONF" not in trainer(cfg).env  # no GPU here
    monkeypatch.setattr(devices, "cuda_is_available", lambda: True)
    cfg.rollout.placement = "separate"
    assert trainer(cfg).env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    cfg.rollout.placement = "colocated"  # CUDA IPC
    assert "PYTORCH_CUDA_ALLOC_CONF" not in trainer(cfg).env


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
    told = str(caught.value).splitlines()[0]
    assert told.startswith(f"vllm ended with status 2{reason}") and ("(all of its log: " in told) == bool(reason)
