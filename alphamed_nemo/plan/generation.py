"""How long the rollouts take: vLLM's engines, each decoding its share of the batch until its last response ends."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

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
    weights = model.parameters * element / tensor
    cache = share - weights - cfg.plan.rollout_workspace_gib * GIB
    tokens = int(cache / (model.kv_bytes(element) / min(tensor, model.kv_heads)))
    # A response in the middle of its life holds about this; vLLM lets in what fits and preempts when it guessed wrong.
    typical = load.prompt + sum(r * r for r in load.responses) / (2 * sum(load.responses))
    concurrent = max(0, min(cfg.rollout.max_num_seqs, int(tokens / typical)))
    return Engine(tensor, cluster.rollout_gpus // tensor, weights, cache, tokens, concurrent)


def generation_seconds(cfg: Config, cluster: Cluster, model: Model, load: Workload, engine: Engine) -> float:
    """Seconds until the slowest engine is done; infinite where nothing fits."""
    if engine.concurrent < 1:
        return math.inf
    share = math.ceil(load.samples / engine.engines)
    responses = load.responses[:: engine.engines][:share]
    responses = [max(load.responses), *sorted(responses)[:-1]]  # the slowest engine is the one with the longest
    prompts = math.ceil(share / load.group)  # a group's samples share their prompt's keys and values
    return _prefill(cfg, cluster, model, prompts * load.prompt, engine) + decode_seconds(
        cfg, cluster, model, load.prompt, responses, engine
    )


def _prefill(cfg: Config, cluster: Cluster, model: Model, tokens: float, engine: Engine) -> float:
    operations = 2 * (model.layers * model.layer_matmul) * tokens
    return operations / (engine.tensor * cluster.gpu.bf16_tflops * 1e12 * cfg.plan.compute_efficiency)


def decode_seconds(
    cfg: Config, cluster: Cluster, model: Model, prompt: float, responses: list[int], engine: Engine
) -> float:
    """Continuous batching: a response that ends makes room for the next. Between two ends nothing changes but the
    contexts, which grow by one token a step, so time is summed from end to end."""
    waiting = responses[::-1]
    running: list[tuple[int, int]] = []  # (step at which it ends, its tokens)
    seconds, step, context = 0.0, 0, 0.0
    while waiting or running:
        while waiting and len(running) < engine.concurrent:
            response = waiting.pop()
            heapq.heappush(running, (step + response, response))
            context += prompt
        steps = running[0][0] - step
        live = len(running)
        middle = context + live * steps / 2
        seconds += steps * decode_step_seconds(cfg, cluster, model, live, middle, engine)
        step += steps
        context += live * steps
        while running and running[0][0] == step:
            context -= prompt + heapq.heappop(running)[1]
    return seconds


def decode_step_seconds(
    cfg: Config, cluster: Cluster, model: Model, live: int, context: float, engine: Engine
) -> float:
    """One token for each of `live` responses: weights and caches are read once, or the products bound it."""
    plan, gpu, tensor = cfg.plan, cluster.gpu, engine.tensor
    caches = context * model.kv_bytes() / min(tensor, model.kv_heads)
    reading = (engine.weights + caches) / (gpu.memory_tb_s * 1e12 * plan.decode_bandwidth_efficiency)
    products = 2 * (model.layers * model.layer_matmul + model.head_matmul) * live
    computing = products / (tensor * gpu.bf16_tflops * 1e12 * plan.compute_efficiency)
    talking = 2 * model.layers * plan.collective_us * 1e-6 if tensor > 1 else 0.0
    return max(max(reading, computing) + talking, plan.decode_floor_ms * 1e-3)
