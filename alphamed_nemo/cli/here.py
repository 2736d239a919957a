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

PROCESSES_PER_CORE = 4  # more on a core take turns so often that a step of the tiny model takes minutes
BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}
TRAINED = 16  # bytes of a parameter: weight and gradient, float32 copy or not, and two moments in float32
LOOK_S = 2.0
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup/memory.max")
GIB = 2**30


def check_here(cfg: Config, model: Mapping[str, Any], trains: bool = True) -> None:
    """Whether what a recipe is about to start can run on this machine. Dtypes are settled.

    Args:
        cfg: the run.
        model: the config.json of the model that is served, and trained.
        trains: whether trainer ranks are started.

    Raises:
        ValueError: names the key, what was found, what was expected, and what to do.
    """
    check_servers(cfg, rewards=trains)
    if devices.cuda_is_available():
        check_gpus(cfg, devices.device_count(), trains)
    else:
        check_cores(cfg, trains)
        check_memory(cfg, model, memory(), trains)


def check_cores(cfg: Config, trains: bool = True) -> None:
    """Refuses far more processes than this machine has cores, where it has no GPUs to do the work."""
    cores = len(os.sched_getaffinity(0))
    counts = {"rollout.tensor × rollout.engines": 0 if cfg.rollout.url else cfg.rollout.world_size}
    if trains:
        counts["parallel (tensor × pipeline × context × data)"] = cfg.parallel.world_size
    for key, count in counts.items():
        if count > PROCESSES_PER_CORE * cores and not devices.cuda_is_available():
            raise ValueError(
                f"{key}: found {count} processes for {cores} cores, expected at most {PROCESSES_PER_CORE} per core"
            )


def check_gpus(cfg: Config, gpus: int, trains: bool = True) -> None:
    """Refuses more ranks and engines than GPUs; a server on the trainer's GPU needs none of its own."""
    served = 0 if cfg.rollout.url or (trains and cfg.rollout.transfer == "ipc") else cfg.rollout.world_size
    trained = cfg.parallel.world_size if trains else 0
    if served + trained > gpus:
        raise ValueError(
            f"parallel and rollout: {trained} ranks and {served} GPUs for rollouts (rollout.tensor × rollout.engines), "
            f"but this machine has {gpus}; use fewer, or a Slurm job on several nodes"
        )


def check_memory(cfg: Config, model: Mapping[str, Any], available: int, trains: bool = True) -> None:
    """Refuses what cannot fit into `available` bytes on a CPU host."""
    parameters = sum(math.prod(shape) for shape in dimensions(model).tensors().values())
    engine = parameters * BYTES[cfg.rollout.dtype] + cfg.rollout.memory_gb * GIB * cfg.rollout.tensor
    engines = 0 if cfg.rollout.url else cfg.rollout.engines * engine
    trained = parameters * TRAINED if trains else 0
    if engines + trained > available:
        raise ValueError(
            f"rollout.engines: {cfg.rollout.engines} engines with rollout.memory_gb={cfg.rollout.memory_gb:g} take "
            f"{engines / GIB:.1f} GiB at least and the trainer {trained / GIB:.1f} GiB, but this machine has "
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
    named = {"rollout.url": cfg.rollout.url} | ({"reward.url": cfg.reward.url} if rewards else {})
    for key, url in named.items():
        if not url:
            continue
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
