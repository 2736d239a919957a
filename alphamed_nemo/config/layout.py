"""Whether a model can be divided as `parallel` says, on plain numbers: for preflight, policy and plan alike."""

from __future__ import annotations

from alphamed_nemo.config.schema import ParallelConfig


def check_layout(parallel: ParallelConfig, heads: int, kv_heads: int, features: int, layers: int) -> None:
    """Refuses a layout that the policy cannot be built in.

    Args:
        parallel: the layout.
        heads, kv_heads: attention and key-value heads of the model.
        features: of its MLP.
        layers: of the model.

    Raises:
        ValueError: names the setting, what was found, and what would do.
    """
    sizes = {"attention heads": heads, "key-value heads": kv_heads, "MLP columns": features}
    for what, count in sizes.items():
        if count % parallel.tensor:
            raise ValueError(
                f"parallel.tensor: {parallel.tensor} does not divide the model's {count} {what}; choose one of "
                f"{divisors(*sizes.values())}"
            )
    if parallel.virtual_pipeline is not None and (parallel.pipeline < 2 or parallel.virtual_pipeline < 1):
        raise ValueError(
            f"parallel.virtual_pipeline: found {parallel.virtual_pipeline} with parallel.pipeline={parallel.pipeline}; "
            "the interleaved schedule needs 2 stages or more: set it to null"
        )
    stages = parallel.pipeline * (parallel.virtual_pipeline or 1)
    if layers % stages:
        times = f" × parallel.virtual_pipeline={parallel.virtual_pipeline}" if parallel.virtual_pipeline else ""
        raise ValueError(
            f"parallel.pipeline: {parallel.pipeline} stages{times} do not divide the model's {layers} layers; choose "
            f"one of {divisors(layers)}"
        )
    if parallel.context > 1:
        raise ValueError(
            f"parallel.context: found {parallel.context}, expected 1: packed batches are not split over "
            "context-parallel ranks; for long sequences use parallel.tensor with parallel.sequence=true. The plan "
            "(recipes/plan.py) of the same settings says how long they may be"
        )
    if parallel.sequence and parallel.tensor == 1:
        raise ValueError("parallel.sequence: needs parallel.tensor of 2 or more; set it to false, or raise that")


def check_microbatch(parallel: ParallelConfig, tokens: int) -> None:
    """Refuses micro-batches that sequence parallelism cannot divide.

    Raises:
        ValueError: names the setting.
    """
    if parallel.sequence and tokens % parallel.tensor:
        raise ValueError(
            f"grpo.tokens_per_microbatch: found {tokens}, expected a multiple of parallel.tensor={parallel.tensor} "
            "with parallel.sequence=true"
        )


def divisors(*numbers: int) -> str:
    """Common divisors, for a message."""
    return ", ".join(str(size) for size in range(1, min(numbers) + 1) if all(n % size == 0 for n in numbers))
