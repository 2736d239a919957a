"""What a user may set: the schema, its choices and ranges, a run's files. Imports no other room, and no torch."""

from alphamed_nemo.config.lora_settings import LoraConfig
from alphamed_nemo.config.plan import PlanConfig
from alphamed_nemo.config.schema import (
    Config,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    GrpoConfig,
    LabelConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    ReportConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TinyModelConfig,
    ValidateConfig,
)
from alphamed_nemo.config.sources import SourceConfig, SourcesConfig

__all__ = [
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GrpoConfig",
    "LabelConfig",
    "LoraConfig",
    "ModelConfig",
    "OptimConfig",
    "ParallelConfig",
    "PlanConfig",
    "ReportConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SourceConfig",
    "SourcesConfig",
    "TinyModelConfig",
    "ValidateConfig",
]
