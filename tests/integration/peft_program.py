"""What PEFT computes with exported adapters, in a process of its own, in float64.

python -m tests.integration.peft_program SOURCE OUT BASE ADAPTER    # SOURCE: unpacked wheels of peft and accelerate

More pairs of a base model and an adapter may follow.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from alphamed_nemo.export.float64 import Float64
from alphamed_nemo.export.logits import probe

SEQUENCES = probe(64, lengths=(2, 17, 40))


def main(source: str, out: str, *folders: str) -> None:
    """Results by adapter's folder."""
    sys.path.insert(0, source)
    torch.save(
        {adapter: of_peft(base, adapter) for base, adapter in zip(folders[::2], folders[1::2], strict=True)}, out
    )


def of_peft(base: str, adapter: str) -> dict[str, Any]:
    from peft import PeftModel

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    adapted: Any = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    adapted.double()
    with Float64():
        rotary = model.model.rotary_emb
        model.model.rotary_emb = type(rotary)(model.config)
        logprobs = [logprobs_of(adapted(torch.tensor([ids])).logits[0], ids) for ids in SEQUENCES]
        backward(loss_of(logprobs))
        return {
            "logprobs": [values.detach() for values in logprobs],
            "gradients": {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad},
            "merged": {name: p.detach() for name, p in adapted.merge_and_unload().named_parameters()},
        }


def logprobs_of(logits: Tensor, ids: list[int]) -> Tensor:
    """Of each token but the first, from the logits [T, vocabulary] of a sequence."""
    return logits.log_softmax(dim=-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)


def loss_of(logprobs: list[Tensor]) -> Tensor:
    """Weighs every token differently."""
    values = torch.cat(logprobs)
    return (values * torch.linspace(-1.0, 1.0, len(values), dtype=values.dtype)).sum()


def backward(loss: Tensor) -> None:
    """As `loss.backward()`, for whose time torch would leave the mode that computes in float64."""
    start = (torch.ones_like(loss),)
    torch.autograd.graph._engine_run_backward(
        (loss,), start, False, False, (), allow_unreachable=True, accumulate_grad=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
