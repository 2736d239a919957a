"""The typed schema of conf/: every setting that a recipe knows, with its unit and its default.

Plain dataclasses, importable without torch, NeMo or Hydra. `alphamed_nemo.config.files` turns a composed Hydra
config into `Config` and refuses unknown keys; `alphamed_nemo.cli.preflight` refuses values that cannot work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from alphamed_nemo.config.choices import (
    Dtype,
    EvaluationProtocol,
    Fill,
    Fp8,
    Fp8Recipe,
    Fusion,
    HeadDtype,
    Logger,
    Placement,
    Prompt,
    Protocol,
    Recompute,
    Schedule,
    Source,
    Spec,
    Subset,
    Suite,
    Transfer,
)
from alphamed_nemo.config.grpo_settings import GrpoConfig
from alphamed_nemo.config.lora_settings import LoraConfig
from alphamed_nemo.config.plan import PlanConfig
from alphamed_nemo.config.ranges import positive, ranged
from alphamed_nemo.config.simulate import SimulateConfig
from alphamed_nemo.config.sources import SourcesConfig
from alphamed_nemo.config.study import StudyConfig


@dataclass
class RunConfig:
    """Where a run lives. Everything it writes is under `dir/name`."""

    name: str = "run"
    dir: str = field(default_factory=lambda: os.environ.get("ALPHAMED_RUNS") or "runs")  # default: ALPHAMED_RUNS
    seed: int = ranged(1, low=0, high=2**32 - 1)
    resume: bool = True  # from the newest checkpoint in the run folder; false: an earlier run there is moved aside
    accept_changes: list[str] = field(default_factory=list)  # what may differ from the checkpoint and is else refused
    component_timeout_s: float = ranged(1800.0, low=1)  # longest start of a component, 140 GB from disk included
    server_restarts: int = ranged(3, low=0)  # restarts per run of rollout and reward servers that died or hang
    hang_timeout_s: float = ranged(60.0, low=1)  # of unanswered /health, or a stopped process, that counts as hanging
    loggers: list[Logger] = field(default_factory=lambda: ["tensorboard"])
    profile_steps: list[int] = ranged(list, low=1)  # steps that rank 0 traces (docs/gpu.md)


@dataclass
class ModelConfig:
    """The base model and the precision that it is trained in."""

    path: str = ""  # a Hugging Face folder with safetensors and tokenizer
    families: list[str] = field(default_factory=list)  # rows of your own, file.py:NAME: docs/extending.md
    dtype: Dtype = "auto"  # auto: what the machine computes fastest in (cli/dtypes.py)
    head_dtype: HeadDtype = "model"  # of the logits, in trainer and rollout engine; model: as dtype (docs/rollout.md)
    max_length: int = ranged(0, low=0)  # tokens; 0: data.max_prompt_tokens and the longest response together
    spec: Spec = "auto"  # auto: Transformer Engine on GPUs, Megatron's local layers elsewhere
    recompute: Recompute = "none"  # rebuilt in the backward pass: the MLP (selective), whole layers (full)
    fp8: Fp8 = ""  # Transformer Engine's linear layers; hybrid: E4M3 forward, E5M2 backward; GPU only
    fp8_recipe: Fp8Recipe = "delayed"  # how FP8 tensors are scaled
    fusions: list[Fusion] = field(default_factory=list)  # GPU only


@dataclass
class ParallelConfig:
    """Ranks = tensor × pipeline × context × data."""

    tensor: int = ranged(1, low=1)
    pipeline: int = ranged(1, low=1)
    data: int = ranged(1, low=1)
    context: int = ranged(1, low=1)
    virtual_pipeline: int | None = ranged(None, low=2)  # model chunks per stage, Megatron's interleaved schedule
    sequence: bool = False  # sequence parallelism inside the tensor group
    overlap_grad_reduce: bool | None = None  # with the last micro-batch's backward pass; null: on GPUs
    overlap_param_gather: bool = False  # of updated weights, with the next forward pass; GPU only

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.context * self.data


@dataclass
class OptimConfig:
    """AdamW (Megatron's distributed optimizer) and its schedule."""

    lr: float = ranged(1e-6, low=0, high=1, above=True)
    min_lr: float = ranged(0.0, low=0, high=1)
    schedule: Schedule = "constant"
    warmup_steps: int = ranged(0, low=0)
    weight_decay: float = ranged(0.0, low=0)
    beta1: float = ranged(0.9, low=0, high=1, below=True)
    beta2: float = ranged(0.95, low=0, high=1, below=True)
    eps: float = positive(1e-8)
    clip_grad: float = ranged(1.0, low=0)  # norm over all parameters; 0 turns clipping off
    offload: bool = False  # optimizer state and step on the host (Megatron's optimizer_cpu_offload); GPU only


@dataclass
class DataConfig:
    """Questions in, prompts out."""

    source: Source = "clinic"  # the invented clinic, the shipped bank, or the data sets of `sources`
    train: str = ""  # question file; empty: <run>/data/train.jsonl
    heldout: str = ""  # question file; empty: <run>/data/heldout.jsonl
    validation: str = ""  # question file; empty: <run>/data/validation.jsonl
    validation_questions: int = ranged(0, low=0)  # that are kept for `validate`, neither trained on nor held out
    prompt: Prompt = "alphamed"  # prompt template, see data/prompts.py
    chat_template: bool | None = None  # wrap the prompt in the chat template; null: that of an instruct model
    thinking: bool | None = None  # enable_thinking of chat templates that have it (Qwen3's); null: the template's own
    template_date: str = "2024-07-26"  # written instead of today's date by chat templates that state it
    max_prompt_tokens: int = ranged(1024, low=1)  # room for a prompt in model.max_length
    train_questions: int = ranged(1200, low=1)  # of the clinic
    heldout_questions: int = ranged(400, low=1)  # of the clinic
    seed: int = ranged(1, low=0)  # draws questions: of the clinic, held out of a source, to label, into a subset


@dataclass
class LabelConfig:
    """Difficulty levels from k samples of the base model, and the balanced subset drawn from them."""

    samples: int = ranged(5, low=1)  # k
    temperature: float = ranged(1.0, low=0, high=10)
    top_p: float = ranged(1.0, low=0, high=1, above=True)
    max_new_tokens: int = ranged(0, low=0)  # 0: as rollout.max_new_tokens
    datasets: list[str] = field(default_factory=list)  # data sets to label; empty: all in the file
    per_dataset: int = ranged(0, low=0)  # questions of each data set to label, drawn by data.seed; 0: all
    subset: Subset = "balanced"  # by_dataset: balanced in each data set; mixture: as label.mixture says
    per_level: int = ranged(0, low=0)  # questions per level in the subset; 0: the size of the smallest level
    first: int = ranged(1, low=1)  # easiest level of the subset
    up_to: int = ranged(0, low=0)  # hardest level of the subset; 0: every level
    mixture: dict[str, int] = ranged(dict, low=1)  # for subset=mixture: questions of each data set
    fill: Fill = "error"  # what to do if a level has fewer than per_level
    questions: str = ""  # file to label; empty: data.train


@dataclass
class RolloutConfig:
    """The vLLM servers and how they sample."""

    servers: int = ranged(1, low=1)  # vLLM servers that share the questions, of engines × tensor devices each
    urls: list[str] = field(default_factory=list)  # of servers that already run; empty: the launcher starts them
    host: str = "127.0.0.1"
    port: int = ranged(0, low=0, high=2**16 - 1)  # the first server's, the others have the next; 0: free ports
    api_key: str = ""  # of all servers; empty: a random one for each run
    placement: Placement = "colocated"  # on the trainer's devices and nodes, in turn with it; separate: on its own
    offload_trainer: bool | None = None  # gradients and optimizer off its devices while rollouts run; null: on GPUs
    transfer: Transfer = "auto"  # auto: shm on a CPU host, gloo between some; on GPUs ipc (colocated) or nccl
    dtype: Dtype = "auto"  # auto: the same as model.dtype
    quantization: Literal["", "fp8"] = ""  # vLLM's online quantization of weights and activations; GPU only
    tensor: int = ranged(1, low=1)  # tensor parallelism of each engine
    engines: int = ranged(1, low=1)  # of each server: copies of the model, of `tensor` devices each
    api_servers: int = ranged(0, low=0)  # HTTP processes of each server; 0: one for each of its GPUs, one on CPU hosts
    max_num_seqs: int = ranged(256, low=1)  # sequences that an engine computes at once
    memory_gb: float = ranged(1.0, low=0.01)  # KV cache of each engine's process on CPU hosts
    threads: int = ranged(0, low=0)  # of each engine on CPU hosts; 0: all cores, but a single engine leaves one
    gpu_memory_utilization: float = ranged(0.85, low=0.01, high=1)
    temperature: float = ranged(1.0, low=0.01, high=10)
    top_p: float = ranged(1.0, low=0, high=1, above=True)
    max_new_tokens: int = ranged(2048, low=1)
    request_timeout_s: float = ranged(1800.0, low=1)  # of one request, which may hold a whole batch
    retries: int = ranged(3, low=0)
    log_stats: bool = True  # vLLM's statistics in its log and at /metrics; a fifth of the HTTP process's work
    check_every_refit: bool = (
        True  # compare a few log-probs with the trainer's after every refit; otherwise only after the first
    )
    extra_args: list[str] = field(default_factory=list)  # passed to vLLM as they are

    @property
    def devices(self) -> int:
        """Of each server."""
        return self.tensor * self.engines

    @property
    def world_size(self) -> int:
        """Devices of all servers."""
        return self.servers * self.devices

    def offloads(self, cuda: bool) -> bool:
        """Whether the trainer gives memory back while rollouts are sampled."""
        if self.offload_trainer is None:
            return cuda and self.placement == "colocated"
        return self.offload_trainer


@dataclass
class RewardConfig:
    """The rule and the server that applies it."""

    url: str = ""  # an already running server; empty: the launcher starts one
    host: str = "127.0.0.1"
    port: int = ranged(0, low=0, high=2**16 - 1)  # 0: a free port
    api_key: str = ""  # optional bearer token
    protocol: Protocol = "boxed"
    functions: list[str] = field(default_factory=list)  # correct, file.py:function (docs/extending.md); empty: correct
    weights: list[float] = field(default_factory=list)  # of the functions, in their order; empty: 1 each
    max_batch: int = ranged(4096, low=1)  # items per request
    max_response_chars: int = ranged(200_000, low=1)
    request_timeout_s: float = ranged(30.0, low=0.1)
    retries: int = ranged(3, low=0)

    @property
    def weighted(self) -> dict[str, float]:
        """Weight by function, in their order, once `rewards/functions.py: check_functions` has accepted both lists."""
        return dict(zip(self.functions, self.weights or [1.0] * len(self.functions), strict=True))


@dataclass
class ValidateConfig:
    """Accuracy while training. Answers are greedy, as long as a rollout, and graded by `evaluate.protocol`."""

    every: int = ranged(0, low=0)  # steps; also before the first and after the last; 0: never
    questions: list[str] = field(default_factory=list)  # question files; empty: data.validation
    size: int = ranged(200, low=0)  # of each file, drawn in proportion to data sets and levels; 0: all
    samples: int = ranged(0, low=0)  # sampled answers per question besides the greedy one, for pass@k
    table_rows: int = ranged(200, low=0)  # answers in the table that W&B and MLflow get of each; 0: no table
    stop_at: float = ranged(0.0, low=0, high=1)  # accuracy that ends the training; 0: none
    stop_falling: float = ranged(
        0.0, low=0, high=1, below=True
    )  # ends it where accuracy has fallen; the chance that it had not, over the whole run; 0: never


@dataclass
class EvaluateConfig:
    """Which model is asked which questions, and how it is graded."""

    model: str = ""  # Hugging Face folder; empty: <run>/hf
    label: str = ""  # row name in tables; empty: the model folder's name
    questions: str = ""  # empty: data.heldout
    protocol: EvaluationProtocol = "boxed"
    samples: int = ranged(1, low=1)
    temperature: float = ranged(0.0, low=0, high=10)
    top_p: float = ranged(1.0, low=0, high=1, above=True)
    max_new_tokens: int = ranged(0, low=0)  # 0: as rollout.max_new_tokens
    stop: list[str] | None = None  # up to 4 texts that end a response; null: a next question's, without a chat template
    responses: str = ""  # score saved responses instead of asking a model
    force_prefix: str = ""  # text put at the start of every response, for the forced-reasoning row
    against: list[str] = field(default_factory=list)  # earlier results (eval/*.json) for a paired comparison
    compare: list[str] = field(default_factory=list)  # results to compare with the first of them, without a model
    suite: Suite = ""  # several prepared sets with one start of the server: docs/data.md
    sets: list[str] = field(default_factory=list)  # of the prepared sets, instead of all of the suite's


@dataclass
class JudgeConfig:
    """Answers in free text, judged by somebody else's model: recipes/judge.py, which no other recipe starts."""

    url: str = ""  # of an OpenAI-compatible endpoint, https://host/v1; its key: ALPHAMED_JUDGE_API_KEY
    model: str = ""  # the name that the endpoint knows it by
    questions: str = ""  # JSON lines as HealthBench publishes them: prompt_id, prompt, rubrics
    responses: str = ""  # JSON lines with id and response (or responses)
    parallel: int = ranged(8, low=1)  # questions judged at the same time
    max_tokens: int = ranged(1024, low=16)  # of a verdict
    timeout_s: float = ranged(120.0, low=1)  # of one request


@dataclass
class ExportConfig:
    """The release folder."""

    checkpoint: str = ""  # empty: the newest of the run; best: see docs/release.md; or a folder
    out: str = ""  # empty: <run>/hf, or <run>/adapter
    dtype: Literal["", "float32", "bfloat16"] = ""  # empty: as trained
    shard_gb: float = ranged(5.0, low=0.001)
    adapter: bool = False  # of a run with LoRA: the adapter alone, as PEFT reads it, instead of the merged model


@dataclass
class ReportConfig:
    """What the page shows."""

    compare: list[str] = field(default_factory=list)  # run folders to put side by side; empty: this run alone
    responses_mb: int = ranged(300, low=0)  # of texts on the page of all responses (docs/kept_rollouts.md); 0: no page


@dataclass
class TinyModelConfig:
    """The tiny base model: sizes, corpus and training of recipes/make_tiny_model.py."""

    out: str = ""  # empty: <run>/base
    hidden: int = ranged(128, low=1)
    layers: int = ranged(4, low=1)
    heads: int = ranged(4, low=1)
    kv_heads: int = ranged(2, low=1)
    ffn: int = ranged(384, low=1)
    vocab: int = ranged(1024, low=1)
    tied: bool = False
    worked_examples: int = ranged(64_000, low=1)
    late_examples: int = ranged(8_000, low=0)
    fact_documents: int = ranged(2_000, low=0)
    batch: int = ranged(32, low=1)
    lr: float = ranged(3e-3, low=0, high=1, above=True)
    warmup_steps: int = ranged(100, low=0)
    weight_decay: float = ranged(0.1, low=0)
    init_std: float = positive(0.02)  # standard deviation of the random weights
    seed: int = ranged(1, low=0)


@dataclass
class Config:
    """One run. Each attribute is a Hydra group of the same name."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    tiny: TinyModelConfig = field(default_factory=TinyModelConfig)
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    simulate: SimulateConfig = field(default_factory=SimulateConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    exp_manager: dict[str, Any] = field(default_factory=dict)  # passed to NeMo's exp_manager as it is
