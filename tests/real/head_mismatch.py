"""vLLM samples from a model in bfloat16, with logits in bfloat16 and in float32, in this process.

python -m tests.real.head_mismatch MODEL FOLDER   # the responses with their log-probs go to FOLDER/sampled.pt
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer

from alphamed_nemo.config.choices import HeadDtype, names
from alphamed_nemo.data.medical_bank import medical_bank
from tests.integration.refit_models import as_the_server, start

QUESTIONS, SAMPLES, NEW_TOKENS = 24, 4, 48


def sampled(model: Path, head: HeadDtype) -> tuple[list[tuple[list[int], list[int]]], torch.Tensor, float]:
    """(prompt and response ids of each sample, log-probs of all response tokens, seconds of processor time)."""
    from vllm import SamplingParams

    tokenizer = AutoTokenizer.from_pretrained(model)
    turns = [[{"role": "user", "content": question.stem}] for question in medical_bank()[0]]
    ids = [tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False) for turn in turns]
    prompts = [each for each in ids if len(each) < 72][:QUESTIONS]
    asked = [
        SamplingParams(n=SAMPLES, max_tokens=NEW_TOKENS, temperature=1.0, seed=seed, logprobs=0, detokenize=False)
        for seed in range(len(prompts))
    ]
    llm, transfer = start(model, "bfloat16", head)
    started = time.process_time()
    outputs = llm.generate([{"prompt_token_ids": each} for each in prompts], asked, use_tqdm=False)
    seconds = time.process_time() - started
    transfer.close()
    rows, logprobs = [], []
    for output in outputs:
        for sample in output.outputs:
            rows.append((list(output.prompt_token_ids), list(sample.token_ids)))
            pairs = zip(sample.logprobs, sample.token_ids, strict=True)
            logprobs += [of_position[token].logprob for of_position, token in pairs]
    return rows, torch.tensor(logprobs), seconds


def main() -> None:
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    as_the_server("tests.real.head_mismatch", folder)
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    found = {}
    for head in names(HeadDtype):
        found[head] = sampled(model, head)
        cleanup_dist_env_and_memory()  # once the engine is gone
    torch.save(found, folder / "sampled.pt")


if __name__ == "__main__":
    main()
