"""The model card: README.md of a release folder, from what the run itself recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alphamed_nemo.data.chat import THINKING
from alphamed_nemo.data.difficulty import describe
from alphamed_nemo.export import markdown
from alphamed_nemo.export.base_model import UNKNOWN, BaseModel, is_repository
from alphamed_nemo.export.card_judged import NOT_DONE
from alphamed_nemo.export.card_results import Row, front_text, model_index, section
from alphamed_nemo.export.card_settings import training_rows
from alphamed_nemo.export.training_record import TrainingRecord
from alphamed_nemo.export.usage import transformers_code, vllm_code

_HUB = "https://huggingface.co"
_LIMITS = """\
**For research only. This model is not a medical device and gives no medical advice.** Nobody should base a diagnosis, a
treatment or any other decision about a person's health on its output.

- It answers multiple-choice questions. On open clinical dialogue, such as HealthBench, models that were trained in this
  way score near zero; this was not measured here.
- It was rewarded for {rewarded}. Its reasoning was not checked: a right answer can follow from wrong
  reasoning, and fluent reasoning can end in a wrong answer.
- Questions written for examinations are not patients. It was not evaluated on clinical cases, in other languages than
  that of its questions, or for safety.
- It has the knowledge, the gaps and the biases of its base model, and the base model's license and use policy apply."""


_ANSWER_ALONE = "the final answer alone"


def _limits(record: TrainingRecord) -> str:
    functions = ", ".join(f"`{name}`" for name in record.reward_functions)
    return _LIMITS.format(rewarded=f"what the functions {functions} measure" if functions else _ANSWER_ALONE)


@dataclass(frozen=True)
class Prompt:
    """How the model is asked.

    Attributes:
        template: with the parts of a question named in braces.
        text: an example, as the user's turn.
        sent: the same as the model reads it, with its chat template and special tokens.
        chat: the chat template is used.
        date: what the chat template writes where it would write today's; empty where it writes none.
        thinking: the chat template's `enable_thinking`; None where the template decides.
    """

    template: str
    text: str
    sent: str
    chat: bool
    date: str = ""
    thinking: bool | None = None

    @property
    def template_values(self) -> dict[str, str | bool]:
        """What the chat template is given besides the turn."""
        dated: dict[str, str | bool] = {"date_string": self.date} if self.date else {}
        return dated if self.thinking is None else dated | {THINKING: self.thinking}


@dataclass(frozen=True)
class ModelCard:
    """What the card is made of.

    Attributes:
        name: of the released model.
        base, record: what is known of the base model and of the training.
        dtype: of the weights in the files.
        parameters: how many.
        prompt: None where it is not known how the model was asked.
        rows: evaluations of this model and of its base model.
        on_hub: data set → its repository on the hub.
        papers: names of the license's files in the release.
        free_text: lines on answers in free text (card_judged.py).
    """

    name: str
    base: BaseModel
    record: TrainingRecord
    dtype: str
    parameters: int
    prompt: Prompt | None = None
    rows: Sequence[Row] = ()
    on_hub: dict[str, str] | None = None
    papers: Sequence[str] = ()
    free_text: Sequence[str] = (NOT_DONE,)


def released_name(base: BaseModel, record: TrainingRecord) -> str:
    """The run's name, or the base model's where there was no run, as the base model's license wants it to begin."""
    name = record.name or f"{base.name.rpartition('/')[2]}-step-{record.step}"
    start = base.license.terms.name_starts if base.license.terms else ""
    return name if name.lower().startswith(start.lower()) else f"{start}-{name}"


def render(card: ModelCard) -> str:
    """The card as Markdown with the hub's front matter."""
    terms = card.base.license.terms
    parts = [f"# {card.name}"]
    if terms and terms.display:
        parts.append(f"**{terms.display}**")
    parts += [_introduction(card), _glance(card)]
    parts += ["## Limits of use", _limits(card.record)]
    parts += ["## How to use it", _usage(card)]
    parts += ["## Evaluation", section(card.rows, card.free_text)]
    parts += ["## Training data", _data(card)]
    parts += ["## Training", _training(card)]
    parts += ["## License", _license(card)]
    parts += [
        "## Provenance",
        "`provenance.json` holds the SHA-256 of the files here, of the base model and of the checkpoint, the training "
        "settings and the versions of the code. This card is not among them, since evaluations add to it.",
    ]
    return front_text(_front(card)) + "\n" + "\n\n".join(parts) + "\n"


def _front(card: ModelCard) -> dict[str, Any]:
    license, base = card.base.license, card.base
    values: dict[str, Any] = {"language": ["en"], "license": license.id}
    if license.id == "other":
        values |= {"license_name": license.name or UNKNOWN, "license_link": license.link or "LICENSE"}
        if values["license_link"] == "LICENSE" and "LICENSE" not in card.papers:
            del values["license_link"]
    values["library_name"] = "transformers"
    values["pipeline_tag"] = "text-generation"
    if is_repository(origin := base.hub or base.made_from or base.name):
        values["base_model"] = origin
    if sets := [one.hub or one.name for one in card.record.data_sets if is_repository(one.hub or one.name)]:
        values["datasets"] = sets
    values["tags"] = ["medical", "reasoning", "grpo", "reinforcement-learning", "alphamed"]
    if index := model_index(card.name, card.rows, card.on_hub or {}):
        values["model-index"] = index
    return values


def _introduction(card: ModelCard) -> str:
    base = _linked(card.base.name, card.base.hub)
    if card.record.weights_only:
        return (
            "Weights that AlphaMed-NeMo converted from a Hugging Face folder to a checkpoint and back, with the "
            f"config and the tokenizer of {base}. The checkpoint knows of no training in between."
        )
    if not card.record.settings:
        return (
            f"{base} after {card.record.step} updates by AlphaMed-NeMo. The run's config.yaml was not there when this "
            "card was written, so how it was trained, and on what, is not known here."
        )
    invented = card.record.get("data.source") == "clinic"
    what = "an invented clinic" if invented else "medical questions"
    functions = ", ".join(f"`{name}`" for name in card.record.reward_functions)
    reward = (
        f"a weighted sum of functions as its reward: {functions}. There were no examples of reasoning"
        if functions
        else "one rule as its reward, whether the final answer to a multiple-choice question is correct. There were no "
        "examples of reasoning and no reward model"
    )
    text = (
        f"{base}, trained with AlphaMed-NeMo to reason about {what}: reinforcement learning (GRPO) with {reward}. "
        "The method is that of [AlphaMed](https://arxiv.org/abs/2505.17952)."
    )
    note = " The clinic's diseases and drugs do not exist: the model shows the method, and knows no medicine from it."
    return text + note if invented else text


def _glance(card: ModelCard) -> str:
    base, record = card.base, card.record
    origin = f", itself made from {_linked(base.made_from, base.made_from)}" if base.made_from else ""
    rows = [
        ("base model", f"{_linked(base.name, base.hub)} ({base.family}, {_count(card.parameters)} parameters){origin}"),
        ("license", _license_name(card)),
        ("trained on", _sets(card)),
        ("training", _amount(record)),
        ("weights", f"{card.dtype}; trained in {record.dtype}"),
    ]
    if card.prompt:
        rows.append(("prompt", _form(card.prompt)))
    return markdown.table(["", ""], rows)


def _form(prompt: Prompt) -> str:
    if not prompt.chat:
        return "plain text, no chat template"
    thinking = "" if prompt.thinking is None else f", thinking {'on' if prompt.thinking else 'off'}"
    return f"with the chat template{thinking}"


def _usage(card: ModelCard) -> str:
    prompt = card.prompt
    if prompt is None:
        return "How this model was asked in training is not known: its card was written without the run's config.yaml."
    asked = prompt.text, prompt.chat, card.record.get("rollout.max_new_tokens", 1024), prompt.template_values
    text = "as one user turn of the chat template" if prompt.chat else "as plain text, without a chat template"
    return "\n\n".join(
        [
            f"Ask as in training: with the prompt template `{card.record.data.prompt}`, {text}.",
            f"```text\n{prompt.template}\n```",
            "A text that the question refers to, such as an abstract, comes before it.",
            f"### transformers\n\n```python\n{transformers_code(*asked)}```",
            f"### vLLM\n\n```python\n{vllm_code(*asked)}```",
            f"All that the model reads in this example, special tokens included:\n\n```text\n{prompt.sent}\n```",
        ]
    )


def _data(card: ModelCard) -> str:
    record = card.record
    if record.weights_only:
        return "None: the checkpoint holds converted weights."
    if not record.data_sets:
        return "Not known: the run's question file was not there, or no longer the one that it was trained on."
    rows = [
        (_linked(one.name, one.hub, "datasets/"), str(one.questions), _levels(one.levels)) for one in record.data_sets
    ]
    parts = [markdown.table(["data set", "questions", "by difficulty level"], rows)]
    if any(level is not None for one in record.data_sets for level in one.levels):
        pool = f", which {record.labelled:,} questions were labelled with" if record.labelled else ""
        parts.append(
            f"Levels are from {record.get('label.samples', 'several')} samples per question of the base model{pool}: "
            "L1 was always answered correctly, the highest level never."
        )
    if record.get("data.source") == "sources":
        cleaned = [("deduplicate", "duplicates"), ("decontaminate", "questions that occur in an evaluation set")]
        removed = [what for key, what in cleaned if record.get(f"sources.{key}", False)]
        parts.append(f"Removed before: {' and '.join(removed) or 'nothing'}.")
    return "\n\n".join(parts)


def _training(card: ModelCard) -> str:
    rows = training_rows(card.record)
    if not rows:
        return "Not known." if not card.record.weights_only else "None."
    return markdown.table(["setting", "value"], rows)


def _license(card: ModelCard) -> str:
    base, terms = card.base, card.base.license.terms
    if base.license.id == UNKNOWN:
        return f"unknown: see the base model, {_linked(base.name, base.hub)}. Its folder named no license."
    text = f"That of the base model: {_license_name(card)}."
    if card.papers:
        text += f" Its papers are {', '.join(f'`{name}`' for name in card.papers)}."
    if not any(name.lower().startswith(("licen", "copying")) for name in card.papers):
        text += " The base model's folder held no copy of it; add one before you pass this model on."
    return text + (f"\n\n{terms.notice}" if terms else "") + "\n\nChanged from the base model: the weights."


def _license_name(card: ModelCard) -> str:
    license = card.base.license
    if license.id == UNKNOWN:
        return "unknown: see the base model"
    name = f"{license.name} ({license.id})" if license.id == "other" and license.name else license.id
    texts = [paper for paper in card.papers if paper.lower().startswith(("licen", "copying"))]
    link = texts[0] if texts else license.link if license.link.startswith("https://") else ""
    return f"[{name}]({link})" if link else name


def _amount(record: TrainingRecord) -> str:
    if record.weights_only:
        return "none"
    passes = "" if record.passes is None else f", {record.passes:.2g} passes over the questions"
    return f"{record.step} steps{passes}"


def _sets(card: ModelCard) -> str:
    record = card.record
    if record.weights_only:
        return "nothing"
    total = sum(one.questions for one in record.data_sets)
    names = ", ".join(f"{one.name} {one.questions:,}" for one in record.data_sets)
    return f"{total:,} questions: {names}" if total else "not known"


def _levels(levels: dict[int | None, int]) -> str:
    known = {level: count for level, count in levels.items() if level is not None}
    words = [describe(known)] if known else []
    return ", ".join([*words, f"{levels[None]} without a level"] if None in levels else words)


def _count(parameters: int) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if parameters >= size:
            return f"{parameters / size:.3g} {unit}"
    return f"{parameters:,}"


def _linked(name: str, hub: str, kind: str = "") -> str:
    return f"[{name}]({_HUB}/{kind}{hub})" if hub else name
