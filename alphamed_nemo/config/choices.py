"""The choices that settings and code share, each written once. `names(Loss)` lists them."""

from __future__ import annotations

from typing import Any, Literal, get_args

Dtype = Literal["auto", "float32", "bfloat16"]
Logger = Literal["tensorboard", "wandb", "mlflow"]
HeadDtype = Literal["model", "float32"]
Spec = Literal["auto", "local", "transformer_engine"]
LoraTarget = Literal["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]  # Megatron's names
Recompute = Literal["none", "selective", "full"]
Fp8 = Literal["", "hybrid", "e4m3"]
Fp8Recipe = Literal["delayed", "current", "blockwise"]
Fusion = Literal["rope", "bias_activation", "bias_dropout", "masked_softmax", "gradient_accumulation"]
Schedule = Literal["constant", "cosine", "linear"]
Source = Literal["clinic", "medical_bank", "sources"]
Prompt = Literal["alphamed", "alphamed_bracketed", "alphamed_headed", "direct", "tiny", "one_of", "one_of_shown"]
Study = Literal["quantity", "diversity", "difficulty"]
Subset = Literal["balanced", "by_dataset", "mixture", "all"]
Fill = Literal["error", "neighbours"]
Placement = Literal["colocated", "separate"]
Transfer = Literal["auto", "shm", "gloo", "nccl", "ipc"]
Protocol = Literal["boxed", "lenient"]
Suite = Literal["", "paper", "medmarks", "robust"]
EvaluationProtocol = Literal["boxed", "lenient", "first_or_last"]
Advantage = Literal["group_std", "group_std_population", "group_mean", "leave_one_out"]
Loss = Literal["clip", "gspo", "cispo"]
Aggregation = Literal["token_mean", "sequence_mean", "constant_length"]
KlSchedule = Literal["constant", "linear"]
KlEstimator = Literal["k1", "k2", "k3"]
Correction = Literal["none", "tis_token", "tis_sequence", "icepop", "sequence_mask"]
Curriculum = Literal["none", "easy_first", "pools"]
GpuType = Literal["h100", "h200"]
Offload = Literal["none", "optimizer", "all"]


def names(choice: Any) -> tuple[str, ...]:
    """The names of a choice."""
    return get_args(choice)
