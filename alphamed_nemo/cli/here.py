"""What only the machine that starts the processes can tell: its cores, GPUs and memory, and the servers it is to use.

Estimates of memory here are floors: weights, optimizer and key-value cache, without activations and programs. What is
refused cannot fit; what passes may still be tight (recipes/plan.py predicts a run on GPUs).
"""

from __future__ import annotations

import math
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alphamed_nemo import devices
from alphamed_nemo.config import Config
from alphamed_nemo.config.choices import Dtype
from alphamed_nemo.families import dimensions
from alphamed_nemo.weight_files import locate

PROCESSES_PER_CORE = 4  # more on a core take turns so often that a step of the tiny model takes minutes
BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}
TRAINED = 16  # bytes of a parameter: weight and gradient, float32 copy or not, and two moments in float32
LOOK_S = 2.0
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup/memory.max")
GIB = 2**30


def check_here(cfg: Config, model: Mapping[str, Any]) -> None:
    """Whether a training can run on this machine. Dtypes are settled.

    Args:
        cfg: the run.
        model: the config.json of the model that is served and trained.

    Raises:
        ValueError: names the key, what was found, what was expected, and what to do.
    """
    check_servers(cfg)
    _check_room(cfg, sum(math.prod(shape) for shape in dimensions(model).tensors().values()), trains=True)


def check_serving(cfg: Config, folder: str) -> None:
    """As `check_here`, for a recipe that only asks a model.

    Args:
        cfg: the run.
        folder: of the model, which may be one that vLLM alone can build. Whether there is one, and needs to be, is for
            the recipe to say.
    """
    check_servers(cfg, rewards=False)
    stored = locate(folder).values() if Path(folder, "config.json").is_file() else ()
    _check_room(cfg, sum(math.prod(tensor.shape) for tensor in stored), trains=False)


def _check_room(cfg: Config, parameters: int, trains: bool) -> None:
    if devices.cuda_is_available():
        check_gpus(cfg, devices.device_count(), trains)
    else:
        check_cores(cfg, trains)
        check_memory(cfg, parameters, memory(), trains)


def check_cores(cfg: Config, trains: bool = True) -> None:
    """Refuses far more processes than this machine has cores, where it has no GPUs to do the work."""
    cores = len(os.sched_getaffinity(0))
    counts = {"rollout.servers × engines × tensor": 0 if cfg.rollout.urls else cfg.rollout.world_size}
    if trains:
        counts["parallel (tensor × pipeline × context × data)"] = cfg.parallel.world_size
    for key, count in counts.items():
        if count > PROCESSES_PER_CORE * cores and not devices.cuda_is_available():
            raise ValueError(
                f"{key}: found {count} processes for {cores} cores, expected at most {PROCESSES_PER_CORE} per core"
            )


def check_gpus(cfg: Config, gpus: int, trains: bool = True) -> None:
    """Refuses more ranks and engines than GPUs; a server on the trainer's GPU needs none of its own."""
    shared = trains and cfg.rollout.placement == "colocated"
    served = 0 if cfg.rollout.urls or shared else cfg.rollout.world_size
    trained = cfg.parallel.world_size if trains else 0
    if shared and not cfg.rollout.urls and cfg.rollout.world_size > trained:
        raise ValueError(
            f"rollout.servers × engines × tensor: found {cfg.rollout.world_size} GPUs, but colocated servers share the "
            f"{trained} of the trainer's ranks; lower them, or use rollout.placement=separate"
        )
    if served + trained > gpus:
        raise ValueError(
            f"parallel and rollout: {trained} ranks and {served} GPUs for rollouts (rollout.servers × engines × "
            f"tensor), but this machine has {gpus}; use fewer, or a Slurm job on several nodes"
        )


def check_memory(cfg: Config, parameters: int, available: int, trains: bool = True) -> None:
    """Refuses what cannot fit into `available` bytes on a CPU host."""
    engine = parameters * BYTES[cfg.rollout.dtype] + cfg.rollout.memory_gb * GIB * cfg.rollout.tensor
    count = 0 if cfg.rollout.urls else cfg.rollout.servers * cfg.rollout.engines
    each = BYTES[cfg.model.dtype] if cfg.lora.rank else TRAINED  # with LoRA the frozen weights; adapters are left out
    trained = parameters * each if trains else 0
    if count * engine + trained > available:
        raise ValueError(
            f"rollout.servers × engines: {count} engines with rollout.memory_gb={cfg.rollout.memory_gb:g} take "
            f"{count * engine / GIB:.1f} GiB at least and the trainer {trained / GIB:.1f} GiB, but this machine has "
            f"{available / GIB:.1f} GiB; lower either, or take a smaller model"
        )


def memory() -> int:
    """Bytes that this machine, or the container that this is in, has."""
    total = next(
        int(line.split()[1]) * 1024 for line in MEMINFO.read_text().splitlines() if line.startswith("MemTotal")
    )
    limit = CGROUP.read_text().strip() if CGROUP.is_file() else ""
    return min(total, int(limit)) if limit.isdigit() else total


def check_servers(cfg: Config, rewards: bool = True) -> None:
    """One look at each server that is said to run already: a mistyped address is found at once, not after retries."""
    named = [("rollout.urls", url) for url in cfg.rollout.urls]
    if rewards and cfg.reward.url:
        named.append(("reward.url", cfg.reward.url))
    for key, url in named:
        check_url(key, url)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(f"{url.rstrip('/')}/health", timeout=LOOK_S).close()
        except urllib.error.HTTPError:
            continue  # it answers; what it says is for its client to judge
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ValueError(
                f"{key}: nothing answers at {url} ({reason}); start it first, or leave {key} empty"
            ) from error


def check_url(key: str, url: str) -> None:
    """Refuses what is no address of a server."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        fits = False
    if not fits:
        raise ValueError(f"{key}: found {url!r}, expected the address of a server such as http://host:8000")
