"""The typed schema of conf/: every setting that a recipe knows, with its unit and its default.

Plain dataclasses, importable without torch, NeMo or Hydra. `alphamed_nemo.config.files` turns a composed Hydra
config into `Config` and refuses unknown keys; `alphamed_nemo.cli.preflight` refuses values that cannot work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from alphamed_nemo.config.plan import PlanConfig
from alphamed_nemo.config.sources import SourcesConfig


@dataclass
class RunConfig:
    """Where a run lives. Everything it writes is under `dir/name`."""

    name: str = "run"
    dir: str = field(default_factory=lambda: os.environ.get("ALPHAMED_RUNS") or "runs")  # as the jobs of slurm/ have it
    seed: int = 1
    resume: bool = True  # continue from the newest checkpoint in the run folder, where there is one
    component_timeout_s: float = 1800.0  # longest wait for a component to come up; 140 GB from a shared disk take long
    server_restarts: int = 3  # how often a rollout or reward server that died or hangs is started again in a run
    hang_timeout_s: float = 60.0  # a server whose health goes unanswered for so long hangs
    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])  # tensorboard | wandb | mlflow


@dataclass
class ModelConfig:
    """The base model and the precision that it is trained in."""

    path: str = ""  # a Hugging Face folder with safetensors and tokenizer
    dtype: str = "auto"  # float32 | bfloat16 | auto: what the machine computes fastest in (cli/dtypes.py)
    max_length: int = 0  # tokens, prompt and response together; 0: data.max_prompt_tokens and the longest response
    spec: str = "auto"  # auto | local | transformer_engine; auto takes Transformer Engine where CUDA is there
    recompute: str = (
        "none"  # none | selective (the MLP) | full (whole layers): activations rebuilt in the backward pass
    )
    fp8: str = ""  # empty | hybrid (E4M3 forward, E5M2 backward) | e4m3: Transformer Engine's linear layers; GPU only
    fp8_recipe: str = "delayed"  # delayed | current | blockwise: how FP8 tensors are scaled
    fusions: list[str] = field(default_factory=list)  # of FUSIONS in policy/model.py; GPU only


@dataclass
class ParallelConfig:
    """Ranks = tensor × pipeline × context × data."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    context: int = 1
    virtual_pipeline: int | None = None  # model chunks a stage, Megatron's interleaved schedule
    sequence: bool = False  # sequence parallelism inside the tensor group
    overlap_grad_reduce: bool | None = None  # with the last micro-batch's backward pass; null: on GPUs
    overlap_param_gather: bool = False  # of updated weights, with the next forward pass; GPU only

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.context * self.data


@dataclass
class OptimConfig:
    """AdamW (Megatron's distributed optimizer) and its schedule."""

    lr: float = 1e-6
    min_lr: float = 0.0
    schedule: str = "constant"  # constant | cosine | linear
    warmup_steps: int = 0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad: float = 1.0  # norm over all parameters; 0 turns clipping off
    offload: bool = False  # optimizer state and step on the host (Megatron's optimizer_cpu_offload); GPU only


@dataclass
class DataConfig:
    """Questions in, prompts out."""

    source: str = "clinic"  # clinic (invented) | medical_bank (shipped) | sources (the data sets of group `sources`)
    train: str = ""  # question file; empty: <run>/data/train.jsonl
    heldout: str = ""  # question file; empty: <run>/data/heldout.jsonl
    prompt: str = "alphamed"  # prompt template, see data/prompts.py
    chat_template: bool | None = None  # wrap the prompt in the chat template; null: that of an instruct model
    template_date: str = "2024-07-26"  # what a chat template that writes today's date writes instead
    max_prompt_tokens: int = 1024  # room for a prompt in model.max_length
    train_questions: int = 1200  # of the clinic
    heldout_questions: int = 400  # of the clinic
    seed: int = 1  # which questions are drawn: of the clinic, held out of a source, to label, into a subset


@dataclass
class LabelConfig:
    """Difficulty levels from k samples of the base model, and the balanced subset drawn from them."""

    samples: int = 5  # k
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 0  # 0: as rollout.max_new_tokens
    datasets: list[str] = field(default_factory=list)  # data sets to label; empty: all in the file
    per_dataset: int = 0  # questions of each data set to label, drawn by data.seed; 0: all
    subset: str = "balanced"  # balanced | by_dataset (balanced in each data set) | mixture | all
    per_level: int = 0  # questions a level in the subset; 0: as many as the smallest non-empty level holds
    up_to: int = 0  # hardest level of the subset, L1..Ln; 0: every level
    mixture: dict[str, int] = field(default_factory=dict)  # for subset=mixture: questions of each data set
    fill: str = "error"  # error | neighbours: what to do where a level holds fewer than per_level
    questions: str = ""  # file to label; empty: data.train


@dataclass
class RolloutConfig:
    """The vLLM server and how it samples."""

    url: str = ""  # an already running server; empty: the launcher starts one
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free port
    api_key: str = ""  # empty: a random one for each run
    transfer: str = "auto"  # shm (CPU hosts) | nccl | ipc
    dtype: str = "auto"  # float32 | bfloat16 | auto: the same as model.dtype
    quantization: str = ""  # empty | fp8: vLLM's online quantization of weights and activations; GPU only
    tensor: int = 1  # the server's own tensor parallelism
    engines: int = 1  # copies of the model on the server, of `tensor` devices each, among which requests are shared
    api_servers: int = 0  # HTTP processes of the server; 0: one for each of its GPUs, one on CPU hosts
    max_num_seqs: int = 256
    memory_gb: float = 1.0  # KV cache on CPU hosts
    threads: int = 0  # of each engine process on CPU hosts; 0: all cores shared, one engine alone leaves one to HTTP
    gpu_memory_utilization: float = 0.85
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 2048
    request_timeout_s: float = 1800.0  # of one request, which may hold a whole batch
    retries: int = 3
    log_stats: bool = True  # vLLM's statistics in its log and at /metrics; a fifth of the HTTP process's work
    check_every_refit: bool = True  # compare a few log-probs with the trainer's after every refit; else the first only
    extra_args: list[str] = field(default_factory=list)  # passed to vLLM as they are

    @property
    def world_size(self) -> int:
        return self.tensor * self.engines


@dataclass
class RewardConfig:
    """The rule and the server that applies it."""

    url: str = ""  # an already running server; empty: the launcher starts one
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free port
    api_key: str = ""  # optional bearer token
    protocol: str = "boxed"  # boxed | lenient
    max_batch: int = 4096  # items a request
    max_response_chars: int = 200_000
    request_timeout_s: float = 30.0
    retries: int = 3


@dataclass
class GrpoConfig:
    """The method. Formulas are in grpo/advantages.py and grpo/loss.py."""

    steps: int = 75  # at 256 questions a step one pass over AlphaMed19K
    questions_per_step: int = 256
    samples_per_question: int = 8  # group size
    advantage: str = "group_std"  # group_std | group_std_population | group_mean | leave_one_out
    advantage_eps: float = 1e-6
    loss: str = "clip"  # clip | gspo | cispo
    aggregation: str = "token_mean"  # token_mean | sequence_mean | constant_length
    constant_length: int = 0  # tokens, for aggregation=constant_length
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0  # 0: off; DAPO and others use 3
    kl_coef: float = 0.0
    kl_estimator: str = "k3"  # k1 | k2 | k3
    entropy_coef: float = 0.0
    updates_per_batch: int = 1  # mini-batches of a rollout batch
    epochs: int = 1  # passes over a rollout batch
    tokens_per_microbatch: int = 4096  # packed tokens; every micro-batch is padded to this
    share_prompts: bool | None = None  # compute a prompt once for its samples; null: with the local layers, which can
    questions: str = ""  # training file; empty: <run>/data/subset.jsonl
    max_token_mult_prob_error: float = 1.05  # mean exp|rollout − trainer|; above it the run stops
    max_logprob_difference: float = 0.0  # largest |rollout − trainer| allowed; 0: not gated
    correction: str = "none"  # none | tis_token | tis_sequence | icepop | sequence_mask
    correction_cap: float = 2.0
    correction_low: float = 0.5
    correction_high: float = 5.0
    dynamic_sampling: bool = False
    max_sampling_rounds: int = 10
    overlong_penalty_tokens: int = 0  # length of the soft-penalty zone before max_new_tokens (DAPO); 0: off
    mask_truncated: bool = False
    curriculum: str = "none"  # none | easy_first
    staleness: int = 0  # steps that a rollout may be older than the weights it trains
    save_every: int = 10
    keep_checkpoints: int = 3  # the newest so many, and the one with the highest reward since the one before it
    samples_kept: int = 64  # responses written to samples/step_<n>.jsonl


@dataclass
class EvaluateConfig:
    """Which model is asked which questions, and how it is graded."""

    model: str = ""  # Hugging Face folder; empty: <run>/hf
    label: str = ""  # row name in tables; empty: the model folder's name
    questions: str = ""  # empty: data.heldout
    protocol: str = "boxed"  # boxed | lenient | first_or_last
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 0  # 0: as rollout.max_new_tokens
    responses: str = ""  # score saved responses instead of asking a model
    force_prefix: str = ""  # text put at the start of every response, for the forced-reasoning row
    against: list[str] = field(default_factory=list)  # earlier results (eval/*.json) for a paired comparison


@dataclass
class ExportConfig:
    """The release folder."""

    checkpoint: str = ""  # empty: the newest of the run; best: the one with the highest reward; or a folder
    out: str = ""  # empty: <run>/hf
    dtype: str = ""  # empty: as trained; bfloat16 | float32
    shard_gb: float = 5.0


@dataclass
class ReportConfig:
    """What the page shows."""

    compare: list[str] = field(default_factory=list)  # run folders to put side by side; empty: this run alone


@dataclass
class TinyModelConfig:
    """The tiny base model: sizes, corpus and training of recipes/make_tiny_model.py."""

    out: str = ""  # empty: <run>/base
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 384
    vocab: int = 1024
    tied: bool = False
    worked_examples: int = 64_000
    late_examples: int = 8_000
    fact_documents: int = 2_000
    batch: int = 32
    lr: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    init_std: float = 0.02  # standard deviation of the random weights
    seed: int = 1


@dataclass
class Config:
    """One run. Each attribute is a Hydra group of the same name."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    tiny: TinyModelConfig = field(default_factory=TinyModelConfig)
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    exp_manager: dict[str, Any] = field(default_factory=dict)  # passed to NeMo's exp_manager as it is
