"""How long the trainer's passes take: micro-batches through the pipeline, gradients between ranks, the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from alphamed_nemo.config import Config
from alphamed_nemo.plan.hardware import Cluster
from alphamed_nemo.plan.lengths import Workload
from alphamed_nemo.plan.sizes import Model
from alphamed_nemo.plan.states import ELEMENT, GRADIENT, States
from alphamed_nemo.policy.packing import divide

# Bytes that Adam moves for one parameter: gradient, float32 parameter and two moments in; the last three and the
# parameter out.
ADAM_TRAFFIC = 4 * GRADIENT + 3 * 4 + 2


@dataclass(frozen=True)
class Packs:
    """The micro-batches of one mini-batch on each data-parallel rank.

    Attributes:
        count: micro-batches.
        tokens: of each, padding included.
        filled: share of the tokens that are not padding.
    """

    count: int
    tokens: int
    filled: float


@dataclass(frozen=True)
class Pass:
    """Seconds of all mini-batches of a step.

    Attributes:
        products: matrix products, as if the pipeline were always full.
        bubble: while stages wait for the first and the last micro-batches.
        tensor: collectives of tensor parallelism; nothing hides them.
        data: gradients and parameters between data-parallel ranks, where the backward pass does not hide them.
        optimizer: Adam.
    """

    products: float
    bubble: float
    tensor: float
    data: float = 0.0
    optimizer: float = 0.0

    @property
    def seconds(self) -> float:
        return self.products + self.bubble + self.tensor + self.data + self.optimizer


def make_packs(cfg: Config, load: Workload) -> Packs:
    """Packs the first mini-batch with the trainer's own packer.

    Raises:
        ValueError: the longest sequence does not fit into a micro-batch.
    """
    limit, ranks = cfg.grpo.tokens_per_microbatch, cfg.parallel.data
    lengths = load.lengths[: max(1, load.samples // cfg.grpo.updates_per_batch)]
    if max(load.lengths) > limit:
        raise ValueError(
            f"grpo.tokens_per_microbatch: {limit} is less than the longest sequence of {max(load.lengths)} tokens; "
            "raise it to model.max_length"
        )
    bins, fullest, filled = _divided(load, len(lengths), limit, ranks)
    tokens = min(limit, math.ceil(fullest / 128) * 128)
    count = bins // ranks
    if cfg.parallel.virtual_pipeline:  # the interleaved schedule takes them in rounds, one for each stage
        count = math.ceil(count / cfg.parallel.pipeline) * cfg.parallel.pipeline
    return Packs(count, tokens, filled / (count * ranks * tokens))


@lru_cache(maxsize=256)
def _divided(load: Workload, samples: int, limit: int, ranks: int) -> tuple[int, int, int]:
    """Of the first `samples` sequences: micro-batches of all ranks, tokens in the fullest of them, and in all."""
    lengths = load.lengths[:samples]
    bins = divide(lengths, limit, ranks)
    return len(bins), max(sum(lengths[i] for i in members) for members in bins), sum(lengths)


def bubble_share(cfg: Config, packs: Packs) -> float:
    """Time in which a stage waits, as a share of its work: (p − 1) / (v m). Source: arXiv 2104.04473, section 2.2."""
    return (cfg.parallel.pipeline - 1) / ((cfg.parallel.virtual_pipeline or 1) * packs.count)


def train_pass(cfg: Config, cluster: Cluster, model: Model, load: Workload, packs: Packs, states: States) -> Pass:
    """Forward, backward, reduction of gradients and the optimizer, `states` being those of the fullest rank."""
    updates = cfg.grpo.updates_per_batch * cfg.grpo.epochs
    rebuilt = {"none": 0.0, "selective": model.mlp_matmul / model.layer_matmul, "full": 1.0}[cfg.model.recompute]
    matrices, attention, head = _forward_seconds(cfg, cluster, model, load, packs)
    back = 1 if cfg.lora.rank else 2  # products of a matrix's backward pass; a frozen one has no gradient of its own
    backward = (back + rebuilt) * matrices + (2 + rebuilt) * attention + back * head
    products = matrices + attention + head + backward
    collectives = (4 + (2 if rebuilt == 1.0 else 1 if rebuilt else 0)) * _tensor_seconds(cfg, cluster, model, packs)
    data = _data_seconds(cfg, cluster, states, backward)
    share = bubble_share(cfg, packs)
    return Pass(
        updates * packs.count * products,
        updates * packs.count * share * (products + collectives),
        updates * packs.count * collectives,
        updates * data,
        updates * _optimizer_seconds(cfg, cluster, states),
    )


def logprob_pass(cfg: Config, cluster: Cluster, model: Model, load: Workload, packs: Packs) -> Pass:
    """One forward pass over the whole batch."""
    products = sum(_forward_seconds(cfg, cluster, model, load, packs))
    collectives = 2 * _tensor_seconds(cfg, cluster, model, packs)
    work = cfg.grpo.updates_per_batch * packs.count
    return Pass(work * products, work * bubble_share(cfg, packs) * (products + collectives), work * collectives)


def _forward_seconds(
    cfg: Config, cluster: Cluster, model: Model, load: Workload, packs: Packs
) -> tuple[float, float, float]:
    """One micro-batch through the slowest stage, the last: (its layers' matrices, their attention, its head)."""
    parallel = cfg.parallel
    layers = model.layers / parallel.pipeline
    attention = 4 * model.queries * load.attended  # scores and their product with the values, causal
    rows = load.response_share * packs.filled
    speed = cluster.gpu.bf16_tflops * 1e12 * cfg.plan.compute_efficiency * parallel.tensor * parallel.context
    if cfg.model.dtype == "float32":
        speed /= 2  # TF32's peak
    faster = cfg.plan.fp8_speedup if cfg.model.fp8 else 1.0
    in_layers = packs.tokens * layers / speed
    head = packs.tokens * rows * 2 * model.head_matmul / speed
    return in_layers * 2 * model.layer_matmul / faster, in_layers * attention, head


def _tensor_seconds(cfg: Config, cluster: Cluster, model: Model, packs: Packs) -> float:
    """One all-reduce (or gather and scatter) of the hidden states, in each of a stage's layers, of a micro-batch."""
    parallel = cfg.parallel
    if parallel.tensor == 1:
        return 0.0
    size = packs.tokens / parallel.context * model.hidden * ELEMENT[cfg.model.dtype]
    moved = 2 * (parallel.tensor - 1) / parallel.tensor * size
    link = cluster.link_bytes_per_s(parallel.tensor) * cfg.plan.link_efficiency
    return model.layers / parallel.pipeline * moved / link


def _data_seconds(cfg: Config, cluster: Cluster, states: States, backward: float) -> float:
    """Reduce-scatter of gradients, hidden by the last micro-batch's backward pass, and all-gather of weights."""
    parallel = cfg.parallel
    ranks = parallel.data * parallel.context
    link = cluster.link_bytes_per_s(ranks, stride=parallel.tensor) * cfg.plan.link_efficiency
    moved = (ranks - 1) / ranks
    reduce = moved * states.gradients / link
    return max(0.0, reduce - cfg.plan.gradients_hidden * backward) + moved * states.trained / link


def _optimizer_seconds(cfg: Config, cluster: Cluster, states: States) -> float:
    """Adam on this rank's part. On the host: gradients there, weights back, and the node's ranks share its memory."""
    parameters = states.gradients / GRADIENT / (cfg.parallel.data * cfg.parallel.context)
    if not cfg.optim.offload:
        return parameters * ADAM_TRAFFIC / (cluster.gpu.memory_tb_s * 1e12 * cfg.plan.decode_bandwidth_efficiency)
    across = parameters * (GRADIENT + ELEMENT[cfg.model.dtype]) / (cfg.plan.host_link_gb_s * 1e9)
    ranks = min(cluster.trainer_gpus, cluster.gpus_per_node)
    return across + parameters * ranks * ADAM_TRAFFIC / (cfg.plan.host_memory_gb_s * 1e9)
