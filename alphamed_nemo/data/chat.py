"""A model's chat template: whether prompts should use it, what it writes around them, and text that stays text.

No torch and no transformers at import, so that a setting is checked in no time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_FILE = "chat_template.jinja"
THINKING = "enable_thinking"  # the variable by which Qwen3's template, and others after it, turn thinking on and off
_PLACE = "\ue000question\ue001"  # private-use characters: no template holds them
_BRACKETED = re.compile(r"<\S+>|\[\S+\]")  # <think>, <tool_call>, [INST]: added, and not always marked as special


def is_instruct(template: str | None, eos_token: str | None) -> bool:
    """Whether a tokenizer is an instruct model's: its chat template ends turns with its end-of-sequence token.

    A base model may carry a template too (Qwen2.5's and Qwen3's do), but it ends texts with another token, and would
    go on after its turn.

    Args:
        template: the Jinja text of the chat template, where there is one.
        eos_token: the tokenizer's end-of-sequence token.
    """
    return bool(template and eos_token and (eos_token in template or "eos_token" in template))


def is_instruct_folder(folder: str | Path) -> bool:
    """`is_instruct` of a Hugging Face folder, read from its files alone."""
    folder = Path(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((each["template"] for each in template if each.get("name") == "default"), None)
    if (folder / TEMPLATE_FILE).is_file():
        template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    eos_token = settings.get("eos_token")
    return is_instruct(template, eos_token["content"] if isinstance(eos_token, dict) else eos_token)


def turn_frame(
    tokenizer: PreTrainedTokenizerBase,
    template_date: str,
    shown: Sequence[tuple[str, str]] = (),
    thinking: bool | None = None,
) -> tuple[str, str]:
    """What the chat template writes before and after a user's turn, up to where the response begins.

    Args:
        tokenizer: has a chat template.
        template_date: ISO date that a template writes where it would write today's (`strftime_now`, `date_string`):
            prompts must not change overnight.
        shown: turns before it, each the user's and the assistant's text.
        thinking: `enable_thinking` of the template; None: what the template does without.

    Raises:
        ValueError: the template does not show the turn as it is, or has no `enable_thinking`.
    """
    if thinking is not None and THINKING not in str(tokenizer.chat_template):
        raise ValueError(
            f"data.thinking: found {str(thinking).lower()}, but the model's chat template has no {THINKING}; set "
            "data.thinking=null"
        )
    day = date.fromisoformat(template_date)
    turns = [
        {"role": role, "content": text}
        for pair in (*shown, (_PLACE, None))
        for role, text in zip(("user", "assistant"), pair, strict=True)
        if text is not None
    ]
    given: dict[str, Any] = {} if thinking is None else {THINKING: thinking}
    rendered = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=True,
        strftime_now=day.strftime,
        date_string=day.strftime("%d %b %Y"),
        **given,
    )
    assert isinstance(rendered, str)  # by tokenize=False
    if rendered.count(_PLACE) != 1:
        raise ValueError(
            f"data.chat_template: the model's template shows the user's turn {rendered.count(_PLACE)} times, expected "
            "once; set data.chat_template=false"
        )
    before, _, after = rendered.partition(_PLACE)
    return before, after


def literal_pieces(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """`text` in pieces that are encoded one by one, so that no part of it becomes a token of the tokenizer's own.

    A question that holds the characters of "<|end_of_text|>" is read as those characters: each such run is cut after
    its first character. Other text is one piece, encoded as the tokenizer itself would.
    """
    names = [
        re.escape(token.content)
        for token in tokenizer.added_tokens_decoder.values()
        if len(token.content) > 1 and (token.special or _BRACKETED.fullmatch(token.content))
    ]
    if not names:
        return [text]
    pattern, pieces, start = re.compile("|".join(names)), [], 0
    found = pattern.search(text)
    while found:
        pieces.append(text[start : (start := found.start() + 1)])
        found = pattern.search(text, start)
    return [*pieces, text[start:]]
