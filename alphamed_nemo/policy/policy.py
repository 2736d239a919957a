"""The policy that GRPO trains: a Megatron model on its ranks, with an optimizer and a way to Hugging Face and back."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoConfig, AutoTokenizer

from alphamed_nemo.config import LoraConfig, ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.policy import runtime
from alphamed_nemo.policy.finite import NotFiniteError, first_not_finite
from alphamed_nemo.policy.local.heap import HEAP
from alphamed_nemo.policy.lora import add_adapters
from alphamed_nemo.policy.model import build_model
from alphamed_nemo.policy.offload import Offload
from alphamed_nemo.policy.optimizer import build_optimizer, gather_weights, wrap
from alphamed_nemo.policy.packing import PackedBatch
from alphamed_nemo.policy.random_weights import initialize_weights
from alphamed_nemo.policy.step import LossFn, forward_backward, forward_logprobs
from alphamed_nemo.policy.weights.everywhere import stream_everywhere
from alphamed_nemo.policy.weights.load import load_hf
from alphamed_nemo.policy.weights.stream import stream_hf

logger = logging.getLogger(__name__)


@dataclass
class StepStats:
    """One optimizer step, the same on every rank.

    Attributes:
        loss: sum over micro-batches and data-parallel ranks.
        grad_norm: over all parameters, before clipping.
        lr: that this step used.
        metrics: what the loss function returned, reduced over micro-batches and data-parallel ranks.
    """

    loss: float
    grad_norm: float
    lr: float
    metrics: dict[str, float]


class MegatronPolicy:
    """A causal language model in Megatron's tensor × pipeline × data layout.

    Attributes:
        model: this rank's chunks; wrapped by Megatron's DistributedDataParallel where there is an optimizer.
        optimizer, scheduler: Megatron's, or None.
        offload: what an update needs, here or given back; None where there is no optimizer.
        hf_config: transformers' config of the model.
        data_rank: this rank's place among the data-parallel ranks; picks its micro-batches.
    """

    def __init__(
        self,
        model: ModelConfig,
        parallel: ParallelConfig,
        optim: OptimConfig | None,
        hf_path: str | Path,
        *,
        total_steps: int | None = None,
        random_seed: int | None = None,
        lora: LoraConfig | None = None,
        lora_seed: int = 0,
    ) -> None:
        """Builds the model and loads its weights. Collective over all ranks.

        Args:
            model: dtype and layer spec; `path` is not read.
            parallel: the layout; `policy.runtime.initialize` is called with it unless it was before.
            optim: None for a model that is not trained, such as the reference policy.
            hf_path: a Hugging Face folder with config and weights, and a tokenizer where that is asked for.
            total_steps: optimizer steps of the run, for schedules that end.
            random_seed: draw the weights instead of reading them; the folder then needs only a config. The same seed
                gives the same model in every layout.
            lora: with a rank above 0, adapters of it are trained and the weights are not.
            lora_seed: draws the adapters; the same one gives the same in every layout.

        Raises:
            ValueError: the settings, the model and this machine do not fit together.
        """
        runtime.initialize(parallel)
        self.hf_path = Path(hf_path)
        self.hf_config: Any = AutoConfig.from_pretrained(self.hf_path)
        adapted = lora is not None and lora.rank > 0
        chunks = build_model(self.hf_config, model, parallel, norms_apart=adapted)
        if random_seed is None:
            load_hf(chunks, self.hf_config, self.hf_path)
        else:
            initialize_weights(chunks, self.hf_config, random_seed)
        if lora is not None and adapted:
            add_adapters(chunks, lora, lora_seed)
        self.model: list[MegatronModule] = [*chunks]
        self.optimizer: Any = None
        self.scheduler: Any = None
        self.offload: Offload | None = None
        if optim is not None:
            wrapped = wrap(chunks, parallel.overlap_grad_reduce, parallel.overlap_param_gather)
            self.optimizer, self.scheduler = build_optimizer(wrapped, optim, total_steps)
            self.model = [*wrapped]
            self.offload = Offload(wrapped, self.optimizer, runtime.device())
        HEAP.give_back()
        self.data_rank: int = parallel_state.get_data_parallel_rank()

    @property
    def is_local(self) -> bool:
        """Whether its layers are Megatron's own, not Transformer Engine's."""
        return self.model[0].config.transformer_impl == "local"

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer of the folder that the weights came from."""
        return AutoTokenizer.from_pretrained(self.hf_path)

    def logprobs(self, batches: Sequence[PackedBatch], temperature: float) -> list[Tensor]:
        """Log-probabilities of the response tokens under the present weights. Collective.

        Args:
            batches: this data-parallel rank's micro-batches, equally many on each and all of one length.
            temperature: divides the logits.

        Returns:
            float32 [T] for each batch, on the CPU, aligned with targets; 0 outside the mask. The same on all tensor
            and pipeline ranks.
        """
        gather_weights(self.model)
        found = forward_logprobs(self.model, self._on_device(batches), self.hf_config.vocab_size, temperature)
        return [values.cpu() for values in found]

    def train_step(self, batches: Sequence[PackedBatch], loss_fn: LossFn, temperature: float) -> StepStats:
        """One optimizer step on the gradient of the sum of all losses. Collective.

        Args:
            batches: this data-parallel rank's micro-batches, equally many on each and all of one length.
            loss_fn: `loss_fn(logprobs [T], entropy [T], batch) -> (loss, metrics)`, called on the last pipeline stage.
                Log-probabilities and entropies are float32 with gradient, 0 outside the mask. The loss is already
                divided by global counts: the sum over all micro-batches and data-parallel ranks is differentiated.
                Metrics are scalars, summed likewise (names in _max, _min: maximum, minimum).
            temperature: divides the logits.

        Raises:
            RuntimeError: there is no optimizer.
            NotFiniteError: the loss or a gradient is not a finite number; on every rank. The weights are those of
                before, unless the message says otherwise. What the update makes of them is for `check_weights`.
        """
        if self.optimizer is None or self.offload is None:
            raise RuntimeError("this policy was built without an optimizer")
        assert self.offload.given is None, "offload.take() comes before an update"
        metrics = forward_backward(
            self.model, self._on_device(batches), loss_fn, self.hf_config.vocab_size, temperature
        )
        loss = metrics.pop("loss")
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss is {loss}; the weights were not changed")
        if name := first_not_finite(self.model, self.hf_config, _gradient):
            raise NotFiniteError(f"the gradient of {name} is NaN or infinite; the weights were not changed")
        self.scheduler.step(1)  # before the update, so that the first step of a warm-up has a rate above zero
        lr = self.scheduler.optimizer.param_groups[0]["lr"]
        _, grad_norm, _ = self.optimizer.step()
        if not math.isfinite(grad_norm):
            raise NotFiniteError(
                f"the gradient norm is {grad_norm}, though each gradient is finite; the weights were changed"
            )
        HEAP.step_ended()
        return StepStats(loss, float(grad_norm), lr, metrics)

    def end_schedule_after(self, updates: int) -> None:
        """Lets a linear or cosine schedule end with the last of so many further updates.

        For a resumed run that makes another number of updates in each step.
        """
        self.scheduler.lr_decay_steps = max(self.scheduler.num_steps + updates, self.scheduler.lr_warmup_steps + 1)

    def check_weights(self) -> None:
        """To be called before weights are kept or served. Collective.

        Raises:
            NotFiniteError: one is NaN or infinite; on every rank.
        """
        gather_weights(self.model)
        if name := first_not_finite(self.model, self.hf_config, _weight):
            raise NotFiniteError(f"the weight {name} is NaN or infinite")

    def hf_weights(self, everywhere: bool = False, copies: bool = True) -> Iterator[tuple[str, Tensor | None]]:
        """The weights under Hugging Face's names, adapters merged, layer by layer: full tensors on rank 0, None
        elsewhere. Collective: every rank runs the iterator to its end.

        Args:
            everywhere: full tensors on every rank; the ranks then have to keep one pace.
            copies: the tensors do not change when training goes on. Otherwise they may be the parameters' own memory.
        """
        gather_weights(self.model)
        if everywhere:
            return stream_everywhere(self.model, self.hf_config)
        return stream_hf(self.model, self.hf_config, copies=copies)

    def _on_device(self, batches: Sequence[PackedBatch]) -> list[PackedBatch]:
        if not batches:
            raise ValueError("no micro-batches: every data-parallel rank needs at least one, if only of padding")
        return [batch.to(runtime.device()) for batch in batches]


def _gradient(parameter: Parameter) -> Tensor | None:
    """Where Megatron's DDP adds it up, in float32; None of a frozen parameter."""
    return vars(parameter)["main_grad"] if parameter.requires_grad else None


def _weight(parameter: Parameter) -> Tensor:
    return parameter
