"""What a run takes from the site: GPU-hours and disk."""

from __future__ import annotations

from alphamed_nemo.config import Config
from alphamed_nemo.plan.adapters import trained_parameters
from alphamed_nemo.plan.sizes import Model
from alphamed_nemo.plan.states import ELEMENT, MASTER, MOMENT


def gpu_hours(seconds: float, nodes: int, gpus_per_node: int) -> float:
    """Of whole nodes: the jobs take them exclusively."""
    return seconds * nodes * gpus_per_node / 3600


def checkpoint_bytes(cfg: Config, model: Model) -> int:
    """What is trained, in the model's type, and for each parameter Adam's two moments and the parameter in float32."""
    return trained_parameters(model, cfg.lora) * (ELEMENT[cfg.model.dtype] + MASTER + 2 * MOMENT)


def checkpoints_kept(cfg: Config) -> int:
    """At most, at once: the newest ones, the best, that which the run resumed from, and the one that is being
    written."""
    grpo = cfg.grpo
    written = -(-grpo.steps // grpo.save_every)
    return min(written, grpo.keep_checkpoints + int(grpo.has_comparable_rewards) + 2)


def disk_bytes(cfg: Config, model: Model) -> int:
    """Checkpoints and the converted model. Samples, metrics and logs are small beside them."""
    return checkpoints_kept(cfg) * checkpoint_bytes(cfg, model) + model.parameters * ELEMENT[cfg.model.dtype]
