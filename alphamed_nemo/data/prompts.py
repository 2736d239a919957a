"""From a question to the token ids that the policy and the rollout engine both see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alphamed_nemo.config import DataConfig
from alphamed_nemo.data.chat import is_instruct, literal_pieces, turn_frame
from alphamed_nemo.data.question import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COT_INSTRUCTION = r"Please reason step by step, and put the final answer in \boxed{}"
DIRECT_INSTRUCTION = r"Answer at once, without reasoning: put the letter of the correct option in \boxed{}"


def _question_and_options(question: Question) -> str:
    context = f"{question.context}\n\n" if question.context else ""
    return "\n".join((f"{context}{question.stem}", *(f"{letter}: {text}" for letter, text in question.shown)))


def _alphamed(question: Question) -> str:
    """The prompt that third parties use with the released AlphaMed checkpoints."""
    return f"{_question_and_options(question)}\n\n{COT_INSTRUCTION}"


def _bracketed(question: Question) -> str:
    """The same words with options as `(A) …`: for telling how much a result depends on the form of its prompt."""
    context = f"{question.context}\n\n" if question.context else ""
    lines = (f"{context}{question.stem}", *(f"({letter}) {text}" for letter, text in question.shown))
    return "\n".join(lines) + f"\n\n{COT_INSTRUCTION}"


def _headed(question: Question) -> str:
    """The same under headings, with the instruction first."""
    context = f"Context:\n{question.context}\n\n" if question.context else ""
    options = "".join(f"\n{letter}. {text}" for letter, text in question.shown)
    asked = f"{context}Question:\n{question.stem}"
    return f"{COT_INSTRUCTION}\n\n{asked}" + (f"\n\nOptions:{options}" if options else "")


def _direct(question: Question) -> str:
    """The same question with no call to reason: the row that shows what the instruction alone is worth."""
    return f"{_question_and_options(question)}\n\n{DIRECT_INSTRUCTION}"


def _tiny(question: Question) -> str:
    """The short form that the tiny base model was trained on; a response starts on the line after it."""
    context = f"{question.context}\n" if question.context else ""
    options = "".join(f"{letter} {text}\n" for letter, text in question.shown)
    return f"{context}{question.stem}\n{options}"


def _one_of(question: Question) -> str:
    """Options without letters, in the sentence that asks: small models know an option's text before its letter."""
    *others, last = (text for _, text in question.shown)
    context = f"{question.context} " if question.context else ""
    return f"{context}{question.stem} Choose one of: {', '.join(others)} or {last}."


TEMPLATES: dict[str, Callable[[Question], str]] = {
    "alphamed": _alphamed,
    "alphamed_bracketed": _bracketed,
    "alphamed_headed": _headed,
    "direct": _direct,
    "tiny": _tiny,
    "one_of": _one_of,
    "one_of_shown": _one_of,
}

# Templates with worked examples: turns of user and assistant before the question, or text before it where no chat
# template is used. They show the form of an answer, and the row "base, shown how to answer" what that alone is worth.
EXAMPLES: dict[str, tuple[tuple[Question, str], ...]] = {
    "one_of_shown": (
        (
            Question(
                "example-1",
                "examples",
                "Which gas do the lungs take from the air into the blood?",
                ("nitrogen", "oxygen", "helium"),
                "B",
            ),
            "The answer is oxygen.",
        ),
        (
            Question(
                "example-2",
                "examples",
                "Did patients who walked in the garden sleep longer?",
                ("yes", "no"),
                "A",
                context="The ward opened a garden. Patients who walked there slept 7 hours, the others 5 hours.",
            ),
            "The answer is yes.",
        ),
    ),
}


def format_prompt(question: Question, template: str) -> str:
    """The text of the user's turn.

    Raises:
        ValueError: the template is unknown, or asks for an option where the question has none.
    """
    if template not in TEMPLATES:
        raise ValueError(f"data.prompt={template!r} is unknown; choose one of {', '.join(TEMPLATES)}")
    if not question.options and not template.startswith("alphamed"):
        raise ValueError(f"data.prompt={template}: question {question.id} asks for a value; use data.prompt=alphamed")
    return TEMPLATES[template](question)


def uses_chat_template(tokenizer: PreTrainedTokenizerBase, data_cfg: DataConfig) -> bool:
    """`data.chat_template`, or where that is null, whether the tokenizer is an instruct model's.

    Raises:
        ValueError: a chat template is asked for and the tokenizer has none.
    """
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    if data_cfg.chat_template is None:
        eos = tokenizer.eos_token
        assert eos is None or isinstance(eos, str)
        return is_instruct(template, eos)
    if data_cfg.chat_template and not template:
        raise ValueError(
            "data.chat_template=true, but the tokenizer has no chat template; set data.chat_template=false "
            "or take an instruct model"
        )
    return data_cfg.chat_template


def prompt_settings(data_cfg: DataConfig) -> dict[str, Any]:
    """What decides a question's prompt, as results and journals record it. A template's own thinking is not in it."""
    thinking = {} if data_cfg.thinking is None else {"thinking": data_cfg.thinking}
    return {"prompt": data_cfg.prompt, "chat_template": data_cfg.chat_template, **thinking}


def sent_prompt(question: Question, tokenizer: PreTrainedTokenizerBase, data_cfg: DataConfig) -> str:
    """The whole text that the model reads, chat template included: for cards, samples and reports.

    Raises:
        ValueError: the template is unknown, or a chat template is asked for and the tokenizer has none.
    """
    before, after = prompt_frame(tokenizer, data_cfg)
    return f"{before}{format_prompt(question, data_cfg.prompt)}{after}"


def prompt_frame(tokenizer: PreTrainedTokenizerBase, data_cfg: DataConfig) -> tuple[str, str]:
    """What stands before and after a question: worked examples, and the chat template's marks.

    Raises:
        ValueError: a chat template is asked for and the tokenizer has none, or `thinking` and there is nothing to set.
    """
    shown = [(format_prompt(asked, data_cfg.prompt), answer) for asked, answer in EXAMPLES.get(data_cfg.prompt, ())]
    if uses_chat_template(tokenizer, data_cfg):
        return turn_frame(tokenizer, data_cfg.template_date, shown, data_cfg.thinking)
    if data_cfg.thinking is not None:
        raise ValueError(
            f"data.thinking: found {str(data_cfg.thinking).lower()}, but prompts are plain text, without a chat "
            "template; set data.thinking=null"
        )
    return "".join(f"{asked}\n{answer}\n\n" for asked, answer in shown), ("\n" if shown else "")


def encode_prompt(
    question: Question, tokenizer: PreTrainedTokenizerBase, data_cfg: DataConfig, response_prefix: str = ""
) -> list[int]:
    """Token ids of one prompt; see `encode_prompts`."""
    return encode_prompts([question], tokenizer, data_cfg, response_prefix)[0]


def encode_prompts(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, data_cfg: DataConfig, response_prefix: str = ""
) -> list[list[int]]:
    """Token ids of each prompt, with the tokenizer's own beginning-of-sequence token.

    A question's text stays text, whatever it holds: no part of it becomes a special token.

    Args:
        questions: what to ask.
        tokenizer: the model's tokenizer.
        data_cfg: `prompt` names the template; `chat_template` wraps it as one user turn.
        response_prefix: text that the response is made to begin with; its tokens come last.

    Raises:
        ValueError: the template is unknown, or a chat template is asked for and the tokenizer has none.
    """
    before, after = prompt_frame(tokenizer, data_cfg)
    heads, tails = [], []  # the first piece of each prompt, and the further ones of all of them
    counts = []
    for question in questions:
        first, *further = literal_pieces(format_prompt(question, data_cfg.prompt), tokenizer)
        pieces = [before + first, *further]
        pieces[-1] += after
        heads.append(pieces[0])
        tails += pieces[1:]
        counts.append(len(further))
    chat = uses_chat_template(tokenizer, data_cfg)
    # A chat template writes its own beginning-of-sequence token; adding another would change what the model sees.
    prompts = tokenizer(heads, add_special_tokens=not chat)["input_ids"] if heads else []
    rest = iter(tokenizer(tails, add_special_tokens=False)["input_ids"] if tails else [])
    prefix = tokenizer.encode(response_prefix, add_special_tokens=False) if response_prefix else []
    return [
        [*ids, *(token for _ in range(count) for token in next(rest)), *prefix]
        for ids, count in zip(prompts, counts, strict=True)
    ]
