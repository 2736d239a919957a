"""Settings of recipes/plan.py: the cluster, the workload, and every assumption with the reason for its value.

Plain dataclasses, importable without torch. A `because` in a field's metadata is printed with the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alphamed_nemo.config.choices import GpuType, Offload
from alphamed_nemo.config.ranges import assumptions, positive, ranged

NEMO_RL_959 = "NVIDIA-NeMo/RL issue 959"


@dataclass
class PlanConfig:
    """The cluster and the assumptions. What the run itself does comes from the other groups."""

    # The cluster
    gpu: GpuType = "h200"  # its memory and speeds: plan/hardware.py
    gpus: int = ranged(0, low=0)  # trainer and rollouts together; 0: as `parallel` and `rollout` ask for
    gpus_per_node: int = ranged(8, low=1)
    memory_gib: float = ranged(0.0, low=0)  # of a GPU; 0: as the type has
    bf16_tflops: float = ranged(0.0, low=0)  # dense; 0: as the type has
    memory_tb_s: float = ranged(0.0, low=0)  # 0: as the type has
    nvlink_gb_s: float = ranged(0.0, low=0)  # of a GPU, one direction; 0: as the type has
    network_gb_s: float = positive(50.0)  # of a GPU, between nodes: one 400 Gb/s adapter each
    host_memory_gib: float = positive(2048.0)  # of a node

    # What leaves shared GPUs while rollouts run. This trainer's is optimizer; all: for plans of other systems
    offload_while_generating: Offload = "optimizer"  # optimizer: and gradients; all: the weights, too

    # What the recipe shows
    table: bool = False  # the fastest layouts of every model of plan/models on 8 to 128 GPUs
    search: bool = False  # the five best layouts of this model on `gpus` GPUs, beside these settings

    # The workload
    prompt_tokens: float = ranged(
        200.0, low=1, because="MedQA questions are mostly 100 to 150 tokens; options and template added"
    )
    response_tokens: float = ranged(
        800.0, low=1, because="mean; Llama-3.1-8B wrote 795 on math problems in " + NEMO_RL_959
    )

    # Assumptions on memory
    reserve_gib: float = ranged(
        6.0,
        low=0,
        because="not ours to use: CUDA context, NCCL's buffers, workspaces, fragmentation; tests/gpu checks",
    )
    rollout_workspace_gib: float = ranged(
        4.0, low=0, because="vLLM's activations at 8,192 batched tokens with 128k logits, and its captured graphs"
    )
    asleep_gib: float = ranged(
        2.0, low=0, because="what a sleeping vLLM keeps on the GPU: its context and captured graphs"
    )

    # Assumptions on speed
    compute_efficiency: float = ranged(
        0.40,
        low=0,
        high=1,
        above=True,
        because="of the peak, in all matrix products: Llama 3 405B trained at 0.38 to 0.43 (arXiv 2407.21783, table 4)",
    )
    fp8_speedup: float = ranged(
        1.3,
        low=1,
        because="of the layers' matrix products in FP8 over BF16, quantization included; so chosen that steps relate "
        "as NeMo-RL's 53.0 s in FP8 and 64.8 s in BF16",
    )
    decode_bandwidth_efficiency: float = ranged(
        0.60,
        low=0,
        high=1,
        above=True,
        because="of the memory bandwidth, in decoding, the engine's overhead included: 0.6 measured on H100 "
        "(Databricks, LLM Inference Performance Engineering, figure 3)",
    )
    decode_floor_ms: float = ranged(
        4.0,
        low=0,
        because="no step of an engine is shorter: scheduling, sampling, launching; a guess for small models",
    )
    link_efficiency: float = ranged(
        0.8,
        low=0,
        high=1,
        above=True,
        because="of NVLink and network, in large NCCL collectives: nccl-tests on DGX H100",
    )
    collective_us: float = ranged(
        15.0, low=0, because="one small all-reduce between the GPUs of one engine, two a layer and token"
    )
    host_link_gb_s: float = positive(50.0, because="PCIe 5 x16, one direction: 64 GB/s less protocol")
    host_memory_gb_s: float = positive(
        300.0, because="of a node, for an optimizer on the host: half of two sockets of DDR5"
    )
    reward_items_per_s: float = positive(
        15_000.0,
        because="answers scored a second by one reward server over HTTP: half of the 30,600 of 8,000 characters "
        "that were measured on two CPU cores (benchmarks/results/2026-11-22.md)",
    )
    refit_tensor_ms: float = ranged(
        1.3,
        low=0,
        because="vLLM's Python that loads a tensor: 0.36 s for 272 tensors of narrow layers, measured on one CPU core",
    )
    refit_memory_passes: float = ranged(
        8.0,
        low=0,
        because="over GPU memory to pack, copy and load a weight: four copies, each read and written",
    )
    refit_fixed_s: float = ranged(
        0.3, low=0, because="a guess: pause, announcement, finish, resume and some 20 calls for buckets"
    )
    other_s: float = ranged(
        3.0,
        low=0,
        because=f"what no phase accounts for in each step: 112 s - 109 s (8B) and 147 - 144 (70B), {NEMO_RL_959}",
    )
    gradients_hidden: float = ranged(
        1.0,
        low=0,
        high=1,
        because="share of the last micro-batch's backward pass that hides the reduction (overlap_grad_reduce)",
    )

    def assumptions(self) -> list[tuple[str, Any, str]]:
        """(name, value, reason) of every assumption; the reason says so where the value is not the default."""
        return assumptions(self, "plan")
