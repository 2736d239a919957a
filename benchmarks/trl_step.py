"""The same GRPO step in TRL's GRPOTrainer. Runs in TRL's own environment; prints one JSON list of seconds per step.

python trl_step.py MODEL_FOLDER PROMPTS.json DTYPE STEPS SAMPLES NEW_TOKENS ROWS_A_PASS
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

WARM_UP = 2


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def boxed(completions: list[str], **_: object) -> list[float]:
    """1 where the response has a boxed answer; random weights give none, as in the other system."""
    return [float("\\boxed{" in completion) for completion in completions]


def main(model: str, prompts_path: str, dtype: str, steps: int, samples: int, tokens: int, rows_a_pass: int) -> None:
    with open(prompts_path) as file:
        prompts = json.load(file)  # of one step
    rows = len(prompts) * samples
    tokenizer = AutoTokenizer.from_pretrained(model)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=rows_a_pass,
            gradient_accumulation_steps=rows // rows_a_pass,
            num_generations=samples,
            max_completion_length=tokens,
            temperature=1.0,
            beta=0.0,
            learning_rate=1e-6,
            max_steps=WARM_UP + steps,
            use_cpu=True,
            bf16=dtype == "bfloat16",
            gradient_checkpointing=False,  # on by default; this is faster
            model_init_kwargs={"dtype": dtype},
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            seed=1,
        )
        trainer = GRPOTrainer(
            model=model,
            args=config,
            reward_funcs=boxed,
            train_dataset=Dataset.from_dict({"prompt": prompts * (WARM_UP + steps)}),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    print(json.dumps({"seconds": clock.seconds[WARM_UP:], "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
