"""Settings of recipes/plan.py: the cluster, the workload, and every assumption with the reason for its value.

Plain dataclasses, importable without torch. A `because` in a field's metadata is printed with the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from alphamed_nemo.config.choices import GpuType, Offload

NEMO_RL_959 = "NVIDIA-NeMo/RL issue 959"


def assumed(value: Any, because: str) -> Any:
    """A default with its reason."""
    return field(default=value, metadata={"because": because})


@dataclass
class PlanConfig:
    """The cluster and the assumptions. What the run itself does comes from the other groups."""

    # The cluster
    gpu: GpuType = "h200"  # its memory and speeds: plan/hardware.py
    gpus: int = 0  # of trainer and rollouts together; 0: as many as `parallel` and `rollout_nodes` ask for
    gpus_per_node: int = 8
    rollout_nodes: int = 0  # nodes for rollouts alone; 0: rollouts share the trainer's GPUs
    memory_gib: float = 0.0  # of a GPU; 0: as the type has
    bf16_tflops: float = 0.0  # dense; 0: as the type has
    memory_tb_s: float = 0.0  # 0: as the type has
    nvlink_gb_s: float = 0.0  # of a GPU, one direction; 0: as the type has
    network_gb_s: float = 50.0  # of a GPU, between nodes: one 400 Gb/s adapter each
    host_memory_gib: float = 2048.0  # of a node

    # What is not the trainer's to do: it keeps its states on shared GPUs. For plans of other systems.
    offload_while_generating: Offload = "none"  # optimizer: and gradients

    # What the recipe shows
    table: bool = False  # the fastest layouts of every model of plan/models on 8 to 128 GPUs

    # The workload
    prompt_tokens: float = assumed(200.0, "MedQA questions are mostly 100 to 150 tokens; options and template added")
    response_tokens: float = assumed(800.0, "mean; Llama-3.1-8B wrote 795 on math problems in " + NEMO_RL_959)

    # Assumptions on memory
    reserve_gib: float = assumed(
        6.0,
        "not ours to use: CUDA context, NCCL's buffers, workspaces, the allocator's fragmentation; tests/gpu checks",
    )
    rollout_workspace_gib: float = assumed(
        4.0, "vLLM's activations at 8,192 batched tokens with 128k logits, and its captured graphs"
    )
    asleep_gib: float = assumed(2.0, "what a sleeping vLLM keeps on the GPU: its context and captured graphs")

    # Assumptions on speed
    compute_efficiency: float = assumed(
        0.40, "of the peak, in all matrix products: Llama 3 405B trained at 0.38 to 0.43 (arXiv 2407.21783, table 4)"
    )
    decode_bandwidth_efficiency: float = assumed(
        0.60, "of the memory bandwidth, in decoding: 0.6 measured on H100 (Databricks, LLM Inference Performance "
        "Engineering, figure 3), the engine's own overhead included"
    )  # fmt: skip
    decode_floor_ms: float = assumed(
        4.0, "no step of an engine is shorter: scheduling, sampling, launching; a guess for small models and many GPUs"
    )
    link_efficiency: float = assumed(0.8, "of NVLink and network, in large NCCL collectives: nccl-tests on DGX H100")
    collective_us: float = assumed(15.0, "one small all-reduce between the GPUs of one engine, two a layer and token")
    host_link_gb_s: float = assumed(50.0, "PCIe 5 x16, one direction: 64 GB/s less protocol")
    host_memory_gb_s: float = assumed(300.0, "of a node, for an optimizer on the host: half of two sockets of DDR5")
    reward_items_per_s: float = assumed(2000.0, "answers scored a second by one reward server over HTTP")
    refit_tensor_ms: float = assumed(
        12.7, f"for each tensor; with refit_fixed_s solved from refits of 5 s (8B) and 14 s (70B) in {NEMO_RL_959}"
    )
    refit_fixed_s: float = assumed(1.3, "pause, finish and resume; see refit_tensor_ms")
    other_s: float = assumed(
        3.0, f"what no phase accounts for in each step: 112 s - 109 s (8B) and 147 - 144 (70B), {NEMO_RL_959}"
    )
    gradients_hidden: float = assumed(
        1.0, "share of the last micro-batch's backward pass that hides the reduction of gradients (overlap_grad_reduce)"
    )

    def assumptions(self) -> list[tuple[str, Any, str]]:
        """(name, value, reason) of every assumption; the reason says so where the value is not the default."""
        rows = []
        for item in fields(self):
            because = item.metadata.get("because")
            if because is not None:
                value = getattr(self, item.name)
                rows.append((f"plan.{item.name}", value, because if value == item.default else "set for this plan"))
        return rows
