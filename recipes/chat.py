"""Talk to a trained model: its answers appear as they are generated.

    ./run chat                # the model that the quickstart trained
    ./run chat run.name=medqa # a run's released folder
    ./run chat evaluate.model=<Llama-3.1-8B-Instruct> evaluate.temperature=0.7

An empty line asks one of the run's held-out questions and then gives the correct answer. Ctrl-D, or `exit`, ends.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from alphamed_nemo.cli.preflight import check_model_folder
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prompts import encode_prompt, format_prompt, prompt_frame, uses_chat_template
from alphamed_nemo.data.question import Question

HINT = "Type a question with its options, or press Enter for a held-out one; Ctrl-D or exit ends."


def chat(cfg: Config, console: Console) -> None:
    """Answers what is typed until the terminal says end of file, or `exit`.

    Raises:
        ValueError: there is no complete model folder.
    """
    released = RunFolder.of(cfg).hf
    if Path(cfg.evaluate.model) == released and not released.is_dir():
        raise ValueError(
            f"there is no trained model in {released} yet: ./run quickstart trains one; or name another run "
            "(run.name=...) or any model folder (evaluate.model=...)"
        )
    check_model_folder(cfg.evaluate.model, "evaluate.model", built=False)
    ask_as_trained(cfg)
    console.print(f"loading PyTorch and {cfg.evaluate.model} …", soft_wrap=True)
    import torch  # takes seconds; a folder that is not there is found before
    from transformers import AutoTokenizer, GenerationConfig, TextStreamer

    tokenizer = AutoTokenizer.from_pretrained(cfg.evaluate.model)
    model = _load(cfg.evaluate.model)
    model = model.cuda() if torch.cuda.is_available() else model
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    sampling = {"temperature": cfg.evaluate.temperature} if cfg.evaluate.temperature else {}
    settings = GenerationConfig(
        max_new_tokens=cfg.evaluate.max_new_tokens,
        do_sample=bool(sampling),
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        **sampling,
    )

    before, after = prompt_frame(tokenizer, cfg.data)
    special = not uses_chat_template(tokenizer, cfg.data)
    heldout = heldout_questions(cfg)
    console.print(HINT)
    while True:
        try:
            text = console.input("\n> ").strip()
        except EOFError:
            return
        if text in ("exit", "quit"):
            return
        question = None if text else next(heldout, None)
        if question:
            console.print(format_prompt(question, cfg.data.prompt).strip(), markup=False, highlight=False)
            ids = encode_prompt(question, tokenizer, cfg.data)
        elif text:
            ids = tokenizer.encode(f"{before}{text}{after or chr(10)}", add_special_tokens=special)
        else:
            console.print(HINT)
            continue
        model.generate(torch.tensor([ids], device=model.device), generation_config=settings, streamer=streamer)
        if question:
            console.print(f"Correct: {question.answer}, {question.answer_text}", markup=False, highlight=False)


def _load(folder: str) -> Any:
    """The model, of whichever of transformers' classes its config names."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()


def ask_as_trained(cfg: Config) -> None:
    """Takes the run's own prompt and length, where its config.yaml is there to tell."""
    path = RunFolder.of(cfg).config
    if path.is_file():
        run = load_config(path)
        cfg.data = run.data
        cfg.evaluate.max_new_tokens = min(cfg.evaluate.max_new_tokens, run.evaluate.max_new_tokens)


def heldout_questions(cfg: Config) -> Iterator[Question]:
    """The run's held-out questions in another order each time; none where there is no file."""
    questions = read_questions(cfg.data.heldout) if Path(cfg.data.heldout).is_file() else []
    random.shuffle(questions)
    return iter(questions)


@recipe("chat")
def main(cfg: Config) -> None:
    chat(cfg, Console())


if __name__ == "__main__":
    main()
