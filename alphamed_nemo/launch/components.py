"""What a run is made of: the rollout servers, the reward server and the trainer, as commands."""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from alphamed_nemo import devices
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.processor import Processor, this_processor
from alphamed_nemo.rollout.vllm_command import engine_threads, new_api_key, vllm_command

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)  # below what Linux gives to outgoing connections (ip_local_port_range)
TRIES = 100
CLEAR_S = 10
SAVE_S = 40  # for a trainer to finish its step and save; torchrun gives its ranks 30 s of it

# For trainer ranks. glibc gives large blocks back to the system as soon as they are freed and takes them again, page by
# page, for the next activation: a fifth of a training step on CPU. Kept instead, up to 4 GiB. Not for vLLM: a refit
# would be a quarter faster, but the engine would keep as much again as the weights.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**32)}

# Names of torch's allocator settings, in the order in which it looks.
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")

log = logging.getLogger(__name__)


@dataclass
class Component:
    """One process of a run, with everything below it.

    Attributes:
        name: what messages call it; its log is `logs/<name>.log`.
        argv: the command.
        env: variables on top of the launcher's own; secrets travel here, not in argv.
        health: URL that answers 200 once it is ready; empty: ready as soon as it runs.
        ready_within_s: limit for becoming ready.
        grace_s: time between SIGTERM and SIGKILL.
        restarts: how often it may be started again after it ended, or hung, once it has been ready for the first time.
        silent_within_s: seconds without an answer, or with a stopped process, that count as hanging.
        sick_within_s: one that answers with an error (a vLLM whose engine has died does) for so long is given up.
    """

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    health: str = ""
    ready_within_s: float = 180.0
    grace_s: int = 10
    restarts: int = 0
    silent_within_s: float = 60.0
    sick_within_s: float = 5.0

    @property
    def ends_within_s(self) -> int:
        """From SIGTERM until nothing of it is left, the time for its wrapper to clear away included."""
        return self.grace_s + CLEAR_S

    def wrapped(self, launcher: str) -> list[str]:
        """The command under its wrapper, which ends with the process `launcher` and leaves nothing behind."""
        wrapper = [sys.executable, "-IS", str(Path(__file__).with_name("child.py"))]
        return [*wrapper, launcher, str(self.grace_s), f"{self.silent_within_s:g}", *self.argv]


def free_port(host: str = LOOPBACK) -> int:
    """A TCP port that nothing on `host` uses.

    It is bound seconds later, by a process that has to import much before. One that the kernel would choose may be
    given to an outgoing connection meanwhile; so it is drawn from those that the kernel gives to none.

    Raises:
        OSError: none is free, or `host` is none of this machine's addresses.
    """
    for port in random.SystemRandom().sample(PORTS, TRIES):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"no free port on {host} among {TRIES} of {PORTS.start} to {PORTS.stop - 1}")


def rollout_names(count: int) -> list[str]:
    """What the rollout servers of a run are called: vllm where there is one, else vllm-0 and so on."""
    return [f"vllm-{number}" for number in range(count)] if count > 1 else ["vllm"]


def rollout_servers(cfg: Config, model_path: str) -> list[Component]:
    """The vLLM servers on `model_path`, all on this machine. Fills `cfg.rollout.urls` and their key."""
    rollout, components = cfg.rollout, []
    rollout.api_key, rollout.urls = rollout.api_key or new_api_key(), []
    for number, name in enumerate(rollout_names(rollout.servers)):
        port = rollout.port + number if rollout.port else free_port(rollout.host)
        url = f"http://{rollout.host}:{port}"
        rollout.urls.append(url)
        argv, env = vllm_command(cfg, model_path, port, rollout.api_key)
        if devices.cuda_is_available():
            env |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus_of(cfg, number))}
        components.append(server(name, argv, env, url, cfg))
    return components


def gpus_of(cfg: Config, number: int) -> list[str]:
    """The GPUs of a server on this machine, as CUDA_VISIBLE_DEVICES names them.

    The trainer's ranks take the first ones; servers share them from the first one on, or have the last ones.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if visible != [""] else [str(gpu) for gpu in range(devices.device_count())]
    first = 0 if cfg.rollout.placement == "colocated" else max(0, len(gpus) - cfg.rollout.world_size)
    return gpus[first:][number * cfg.rollout.devices :][: cfg.rollout.devices]


def reward_server(cfg: Config) -> Component:
    """The reward server. Fills `cfg.reward.url` and its key."""
    port = cfg.reward.port or free_port(cfg.reward.host)
    cfg.reward.api_key = cfg.reward.api_key or new_api_key()
    cfg.reward.url = f"http://{cfg.reward.host}:{port}"
    argv = [sys.executable, "-m", "alphamed_nemo.rewards.server", "--host", cfg.reward.host, "--port", str(port)]
    argv += ["--protocol", cfg.reward.protocol, "--max-batch", str(cfg.reward.max_batch)]
    argv += ["--max-response-chars", str(cfg.reward.max_response_chars)]
    argv += [f"--function={name}={weight!r}" for name, weight in cfg.reward.weighted.items()]
    env = {"ALPHAMED_REWARD_API_KEY": cfg.reward.api_key}
    return server("reward", argv, env, cfg.reward.url, cfg)


def server(name: str, argv: list[str], env: dict[str, str], url: str, cfg: Config) -> Component:
    """A component that answers GET /health, with the limits of `run`."""
    limits = cfg.run.component_timeout_s, cfg.run.server_restarts, cfg.run.hang_timeout_s
    ready_within_s, restarts, silent_within_s = limits
    return Component(
        name, argv, env, f"{url}/health", ready_within_s, restarts=restarts, silent_within_s=silent_within_s
    )


def trainer_threads(cfg: Config) -> int:
    """OpenMP threads of each of the trainer's ranks on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // cfg.parallel.world_size)


def trainer(cfg: Config) -> Component:
    """The trainer's ranks on this machine: one by itself, several by torchrun, or forked where there are no GPUs.

    Expects the run's config.yaml to be written.
    """
    ranks, port, rank = cfg.parallel.world_size, free_port(), {}
    worker = ["alphamed_nemo.grpo.worker", str(RunFolder.of(cfg).config)]
    if ranks == 1:
        argv = [sys.executable, "-m", *worker]
        rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        rank |= {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    elif devices.cuda_is_available():
        argv = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--nnodes=1"]
        argv += [f"--master-addr={LOOPBACK}", f"--master-port={port}", "-m", *worker]
    else:
        argv = [sys.executable, "-m", "alphamed_nemo.launch.ranks", str(ranks), str(port), *worker]
    env = (
        KEEP_FREED_MEMORY
        | rank
        | {
            "OMP_NUM_THREADS": str(trainer_threads(cfg)),
            "GLOO_SOCKET_IFNAME": "lo",
            "ALPHAMED_ROLLOUT_API_KEY": cfg.rollout.api_key,
            "ALPHAMED_REWARD_API_KEY": cfg.reward.api_key,
        }
    )
    if devices.cuda_is_available():
        env |= allocator_settings(cfg)
    return Component("trainer", argv, env, grace_s=SAVE_S, silent_within_s=cfg.run.hang_timeout_s)


def allocator_settings(cfg: Config) -> dict[str, str]:
    """For a trainer rank on a GPU: segments that grow, without which packs of many lengths leave gaps that nothing fits
    into. Not where another process opens the rank's memory (CUDA IPC), and not over the user's own settings."""
    if cfg.rollout.placement == "colocated" or any(os.environ.get(name) for name in ALLOCATOR):
        return {}
    return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def announce_processor(cfg: Config, processor: Processor | None = None) -> None:
    """Says what a run on a CPU host computes with, and warns of bfloat16 where that is slow. Dtypes are settled."""
    if devices.cuda_is_available():
        return
    processor = processor or this_processor()
    log.info(
        "%s; trainer: %s, %d × %d threads; vLLM: %s, %d × %d threads",
        processor,
        cfg.model.dtype,
        cfg.parallel.world_size,
        trainer_threads(cfg),
        cfg.rollout.dtype,
        cfg.rollout.world_size,
        engine_threads(cfg.rollout, cfg.rollout.servers),
    )
    asked = [f"{group}.dtype" for group in ("model", "rollout") if getattr(cfg, group).dtype == "bfloat16"]
    if asked and processor.bfloat16_slower:
        log.warning(
            "%s: bfloat16 takes about %d times as long as float32 on this processor, which has no instructions for it; "
            "a new run is faster with float32 or auto",
            " and ".join(asked),
            processor.bfloat16_slower,
        )
