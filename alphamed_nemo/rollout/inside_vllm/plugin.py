"""What this project adds to vLLM, in each of its processes: entry point `vllm.general_plugins`."""

from __future__ import annotations

import os

from alphamed_nemo.rollout.inside_vllm import hanging
from alphamed_nemo.rollout.inside_vllm.replaced import replaces


def register() -> None:
    """Called by vLLM at start in the HTTP front, the engine and the workers; may run twice in one process."""
    _register_engines()
    _logprobs_before_top_p()
    hanging.register()
    _on_cpu()
    if os.environ.get("ALPHAMED_ROLLOUT_FORK") == "1":
        _fork_engine()


def _register_engines() -> None:
    """The weight-transfer engines, which vLLM imports when a worker makes one."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from alphamed_nemo.rollout.vllm_command import BACKENDS

    engines = {
        "shm": ("alphamed_nemo.rollout.inside_vllm.shm_engine", "SharedMemoryEngine"),
        "gloo": ("alphamed_nemo.rollout.inside_vllm.gloo_engine", "GlooEngine"),
        "nccl": ("alphamed_nemo.rollout.inside_vllm.cuda_engines", "NcclEngine"),
        "ipc": ("alphamed_nemo.rollout.inside_vllm.cuda_engines", "IpcEngine"),
    }
    for transfer, backend in BACKENDS.items():
        if backend not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(backend, *engines[transfer])


def _on_cpu() -> None:
    import torch
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from alphamed_nemo.rollout.inside_vllm import cpu_embedding, cpu_norm, cpu_rounding

        cpu_embedding.register()
        cpu_norm.register()
        if not cpu_norm.kernels_round(torch.bfloat16):
            cpu_rounding.register()


def log_choices() -> None:
    """What `register` chose for this machine; for after vLLM's loggers are set up, which is later than that."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from alphamed_nemo.rollout.inside_vllm import cpu_norm

        cpu_norm.log_choice()


def _logprobs_before_top_p() -> None:
    """Make `processed_logprobs` mean log-softmax(logits / temperature), before top-k and top-p.

    vLLM takes them after: the tokens that top-p cuts are out of its softmax, and the trainer, which knows the whole
    distribution, would see a ratio above 1 for every token.
    """
    import torch
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    @replaces(TopKTopPSampler, "__init__")
    def init(original, self, *args, **kwargs):
        original(self, *args, **kwargs)
        forward = self.forward

        def before_top_p(logits, generators, k, p):
            keep = self.logprobs_mode == "processed_logprobs" and (k is not None or p is not None)
            whole = logits.log_softmax(dim=-1, dtype=torch.float32) if keep else None
            sampled, processed = forward(logits, generators, k, p)
            return sampled, processed if whole is None else whole

        self.forward = before_top_p


def _fork_engine() -> None:
    """Let the engine process fork from the HTTP front; vLLM's CPU platform insists on spawning, to set LD_PRELOAD."""
    from vllm.platforms.cpu import CpuPlatform

    @replaces(CpuPlatform, "check_and_update_config")
    def check_and_update_config(original, cls, vllm_config):
        original(cls, vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
