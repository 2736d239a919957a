"""How long the rollouts take: vLLM's engines, each decoding its share of the batch until its last response ends."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from functools import lru_cache

from alphamed_nemo.config import Config
from alphamed_nemo.plan.hardware import GIB, Cluster
from alphamed_nemo.plan.lengths import Workload
from alphamed_nemo.plan.sizes import Model
from alphamed_nemo.plan.states import ELEMENT


@dataclass(frozen=True)
class Engine:
    """One vLLM engine of `tensor` GPUs.

    Attributes:
        weights, cache: bytes on one GPU; the cache is what `gpu_memory_utilization` leaves.
        cache_tokens: that the keys and values of fit into all its GPUs; negative where not even the weights fit.
        concurrent: responses that it decodes at once.
    """

    tensor: int
    engines: int
    weights: float
    cache: float
    cache_tokens: int
    concurrent: int


def make_engine(cfg: Config, cluster: Cluster, model: Model, load: Workload) -> Engine:
    """What fits into vLLM's share of a GPU.

    A key-value head is on one GPU or more, so beyond `kv_heads` GPUs an engine's caches repeat.
    """
    tensor = cfg.rollout.tensor
    element = ELEMENT[cfg.rollout.dtype]
    share = cfg.rollout.gpu_memory_utilization * cluster.gpu.memory_gib * GIB
    weights = served_bytes(cfg, model) / tensor
    cache = share - weights - cfg.plan.rollout_workspace_gib * GIB
    tokens = int(cache / (model.kv_bytes(element) / min(tensor, model.kv_heads)))
    # A response in the middle of its life holds about this; vLLM lets in what fits and preempts when it guessed wrong.
    typical = load.prompt + load.half_grown
    concurrent = max(0, min(cfg.rollout.max_num_seqs, int(tokens / typical)))
    return Engine(tensor, cluster.rollout_gpus // tensor, weights, cache, tokens, concurrent)


def served_bytes(cfg: Config, model: Model) -> int:
    """Weights of one engine. vLLM's online FP8 (`rollout.quantization`) leaves embedding and head as they are."""
    element = ELEMENT[cfg.rollout.dtype]
    quantized = model.layers * model.layer_matmul if cfg.rollout.quantization else 0
    return model.parameters * element - quantized * (element - 1)


def _layer_products(cfg: Config, model: Model) -> float:
    """Operations of a token in all layers' products; FP8 ones count as the BF16 ones that take as long."""
    faster = cfg.plan.fp8_speedup if cfg.rollout.quantization else 1.0
    return 2 * model.layers * model.layer_matmul / faster


@dataclass(frozen=True)
class DecodeSpeed:
    """Seconds that one step of an engine's decoding, a token for each response, is made of.

    Attributes:
        weights: to read them once.
        token: to read the keys and values of one token.
        response: the products of one response.
        collectives: between the engine's GPUs.
        floor: no step is shorter.
    """

    weights: float
    token: float
    response: float
    collectives: float
    floor: float

    def step(self, live: float, context: float) -> float:
        """Of `live` responses with `context` tokens together: memory is read, or the products bound it."""
        return max(max(self.weights + self.token * context, self.response * live) + self.collectives, self.floor)


def decode_speed(cfg: Config, cluster: Cluster, model: Model, engine: Engine) -> DecodeSpeed:
    plan, gpu, tensor = cfg.plan, cluster.gpu, engine.tensor
    reading = gpu.memory_tb_s * 1e12 * plan.decode_bandwidth_efficiency
    computing = tensor * gpu.bf16_tflops * 1e12 * plan.compute_efficiency
    return DecodeSpeed(
        engine.weights / reading,
        model.kv_bytes() / min(tensor, model.kv_heads) / reading,
        (_layer_products(cfg, model) + 2 * model.head_matmul) / computing,
        2 * model.layers * plan.collective_us * 1e-6 if tensor > 1 else 0.0,
        plan.decode_floor_ms * 1e-3,
    )


def generation_seconds(cfg: Config, cluster: Cluster, model: Model, load: Workload, engine: Engine) -> float:
    """Seconds until the slowest engine is done; infinite where nothing fits."""
    if engine.concurrent < 1:
        return math.inf
    share = math.ceil(load.samples / engine.engines)
    decoding = decode_seconds(
        load.prompt, slowest_share(load, engine.engines), engine.concurrent, decode_speed(cfg, cluster, model, engine)
    )
    return prefill_seconds(cfg, cluster, model, load, engine, share) + decoding


@lru_cache(maxsize=64)
def slowest_share(load: Workload, engines: int) -> tuple[int, ...]:
    """Lengths of the responses of the engine that is done last, the one with the longest, in ascending order but for
    the first."""
    share = load.responses[::engines][: math.ceil(load.samples / engines)]
    return (max(load.responses), *sorted(share)[:-1])


def prefill_seconds(
    cfg: Config, cluster: Cluster, model: Model, load: Workload, engine: Engine, samples: float
) -> float:
    """Of the prompts of `samples` responses. A group's samples share their prompt's keys and values."""
    operations = _layer_products(cfg, model) * math.ceil(samples / load.group) * load.prompt
    return operations / (engine.tensor * cluster.gpu.bf16_tflops * 1e12 * cfg.plan.compute_efficiency)


@lru_cache(maxsize=1024)
def decode_seconds(prompt: float, responses: tuple[int, ...], concurrent: int, speed: DecodeSpeed) -> float:
    """Continuous batching: a response that ends makes room for the next. Between two ends nothing changes but the
    contexts, which grow by one token a step, so time is summed from end to end."""
    waiting = list(responses[::-1])
    running: list[tuple[int, int]] = []  # (step at which it ends, its tokens)
    seconds, step, context = 0.0, 0, 0.0
    while waiting or running:
        while waiting and len(running) < concurrent:
            response = waiting.pop()
            heapq.heappush(running, (step + response, response))
            context += prompt
        steps = running[0][0] - step
        live = len(running)
        seconds += steps * speed.step(live, context + live * steps / 2)
        step += steps
        context += live * steps
        while running and running[0][0] == step:
            context -= prompt + heapq.heappop(running)[1]
    return seconds
