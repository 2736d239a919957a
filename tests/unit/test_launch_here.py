"""What only this machine can tell before a run starts: too many processes, too little memory, an absent server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from alphamed_nemo import devices
from alphamed_nemo.cli import here
from alphamed_nemo.cli.here import check_cores, check_gpus, check_memory, check_servers, check_serving, check_url
from alphamed_nemo.config import Config
from alphamed_nemo.launch.components import free_port
from alphamed_nemo.weight_files import locate
from tests.hollow_model import SMALL_LLAMA
from tests.tiny_hf import write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cfg() -> Config:
    cfg = Config()
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    return cfg


@pytest.fixture
def health() -> Iterator[str]:
    """The address of a server that answers 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802, http.server's own name
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_far_more_processes_than_cores_are_refused(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(devices, "cuda_is_available", lambda: False)
    cfg.parallel.tensor, cfg.parallel.pipeline, cfg.rollout.engines = 4, 2, 2
    check_cores(cfg)
    cfg.parallel.data = 2
    with pytest.raises(ValueError, match=r"^parallel .*: found 16 processes for 2 cores, expected at most 4 per core$"):
        check_cores(cfg)
    check_cores(cfg, trains=False)
    cfg.rollout.engines = 9
    with pytest.raises(ValueError, match=r"^rollout\.servers × engines × tensor: found 9 processes for 2 cores"):
        check_cores(cfg, trains=False)
    cfg.rollout.urls = ["http://elsewhere:8000"]
    check_cores(cfg, trains=False)


def test_more_ranks_and_engines_than_gpus_are_refused(cfg: Config) -> None:
    cfg.parallel.tensor, cfg.rollout.engines, cfg.rollout.placement = 4, 4, "separate"
    check_gpus(cfg, 8)
    with pytest.raises(ValueError, match=r"^parallel and rollout: 4 ranks and 4 GPUs for rollouts .* has 7; use fewer"):
        check_gpus(cfg, 7)
    check_gpus(cfg, 4, trains=False)
    cfg.rollout.placement = "colocated"
    check_gpus(cfg, 4)
    cfg.rollout.servers = 2
    with pytest.raises(ValueError, match=r"found 8 GPUs, but colocated servers share the 4 of the trainer's ranks"):
        check_gpus(cfg, 8)


def test_engines_that_memory_cannot_hold_are_refused_with_the_sum(cfg: Config) -> None:
    hidden, features, queries, keys, layers, vocabulary = 64, 128, 64, 32, 4, 1024
    layer = 2 * hidden * (queries + keys) + 3 * hidden * features + 2 * hidden
    parameters = layers * layer + 2 * vocabulary * hidden + hidden  # of SMALL_LLAMA
    cfg.rollout.engines, cfg.rollout.memory_gb = 3, 0.5
    needed = 3 * (4 * parameters + 2**29) + 16 * parameters
    check_memory(cfg, parameters, needed)
    with pytest.raises(
        ValueError, match=r"^rollout\.servers × engines: 3 engines with rollout\.memory_gb=0\.5 take 1\.5 GiB"
    ):
        check_memory(cfg, parameters, needed - 1)
    check_memory(cfg, parameters, needed - 1, trains=False)
    cfg.lora.rank = 8  # without gradients and moments of the weights
    check_memory(cfg, parameters, needed - 12 * parameters)


def test_memory_is_the_containers_where_that_is_less(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemFree: 5 kB\nMemTotal:       2048 kB\n")
    monkeypatch.setattr(here, "MEMINFO", tmp_path / "meminfo")
    for limit, expected in ((None, 2**21), ("max\n", 2**21), (f"{2**20}\n", 2**20), (f"{2**40}\n", 2**21)):
        monkeypatch.setattr(here, "CGROUP", tmp_path / "memory.max")
        if limit is not None:
            (tmp_path / "memory.max").write_text(limit)
        assert here.memory() == expected


@pytest.mark.parametrize("key", ["rollout.urls", "reward.url"])
def test_a_server_that_does_not_run_is_found_by_one_look(cfg: Config, health: str, key: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    if key == "reward.url":
        cfg.reward.url = url
    else:
        cfg.rollout.urls = [health, url]
    with pytest.raises(ValueError, match=rf"^{key}: nothing answers at {url} \(.*refused\); start it first"):
        check_servers(cfg)


def test_a_server_that_answers_passes_whatever_it_says(cfg: Config, health: str) -> None:
    cfg.rollout.urls, cfg.reward.url = [health, health], health
    check_servers(cfg)
    cfg.rollout.urls = [f"{health}/"]
    check_servers(cfg, rewards=False)


@pytest.mark.parametrize("url", ["localhost:8000", "8000", "http://", "http://host:port", "ftp://host", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^rollout\.urls: found .*, expected the address of a server such as http"):
        check_url("rollout.urls", url)


def test_a_run_on_this_machine_asks_for_all_of_it(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_is_available", lambda: False)
    here.check_here(cfg, SMALL_LLAMA)
    cfg.rollout.memory_gb = 1e9
    with pytest.raises(ValueError, match=r"^rollout\.servers × engines: "):
        here.check_here(cfg, SMALL_LLAMA)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A whole folder of a family that is known, whose rotary embedding Megatron cannot build and vLLM can."""
    folder = write_model(tmp_path / "served", "llama")
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"] = config["rope_parameters"] = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("recipe", "key"), [("evaluate", "evaluate.model"), ("label_difficulty", "model.path")])
def test_a_recipe_that_only_asks_a_model_is_refused_before_it_starts_anything(
    served: Path, tmp_path: Path, recipe: str, key: str
) -> None:
    settings = [f"{key}={served}", f"run.dir={tmp_path}/runs", "rollout.memory_gb=1e6", "model.dtype=float32"]
    command = [sys.executable, ROOT / "recipes" / f"{recipe}.py", *settings]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: rollout.servers × engines: 1 engines with rollout.memory_gb=1e+06 take")
    assert not (tmp_path / "runs").exists()


def test_what_is_only_served_is_checked_as_a_training_is(cfg: Config, served: Path, monkeypatch) -> None:
    monkeypatch.setattr(devices, "cuda_is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    cfg.parallel.data, cfg.rollout.memory_gb, cfg.rollout.engines = 64, 0.001, 9
    with pytest.raises(ValueError, match=r"^rollout\.servers × engines × tensor: found 9 processes for 2 cores"):
        check_serving(cfg, str(served))
    cfg.rollout.engines, cfg.rollout.urls = 1, [f"http://127.0.0.1:{free_port()}"]
    with pytest.raises(ValueError, match=r"^rollout\.urls: nothing answers at "):
        check_serving(cfg, str(served))


def test_the_memory_of_a_served_model_is_that_of_its_files(cfg: Config, served: Path, monkeypatch) -> None:
    monkeypatch.setattr(devices, "cuda_is_available", lambda: False)
    cfg.rollout.memory_gb = 0.0
    stored = sum(tensor.size for tensor in locate(served).values())  # float32, as it is served
    monkeypatch.setattr(here, "memory", lambda: stored)
    check_serving(cfg, str(served))
    monkeypatch.setattr(here, "memory", lambda: stored - 1)
    with pytest.raises(ValueError, match=r"^rollout\.servers × engines: "):
        check_serving(cfg, str(served))
    check_serving(cfg, str(served / "no-model"))  # the recipe's to refuse, where it needs one
