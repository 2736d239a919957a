"""From the bytes of a request to items that can be scored, or to the reason why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import msgspec

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.data.question import Question
from alphamed_nemo.rewards.functions import needs_question
from alphamed_nemo.rewards.score import RewardItem, check_item

MAX_OPTION_CHARS = 10_000
MAX_REASON_CHARS = 300


class Refused(Exception):
    """A request that is not scored: HTTP status and the reason to send back. 429 asks to try again later."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason[:MAX_REASON_CHARS]


class WireItem(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One item of a request; `options` or `letters`, not both."""

    response: str
    answer: str
    options: tuple[Annotated[str, msgspec.Meta(max_length=MAX_OPTION_CHARS)], ...] = ()
    letters: str = ""


class WireRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    items: list[WireItem]


class WireQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """The rest of a question; its options and its key are the item's."""

    id: str
    dataset: str
    stem: str
    context: str = ""
    level: int | None = None
    metadata: dict[str, Any] = {}


class WireAskedItem(WireItem, forbid_unknown_fields=True, kw_only=True):
    """One item of a request to a server that has functions of its user's own."""

    prompt: str
    question: WireQuestion


class WireAskedRequest(msgspec.Struct, forbid_unknown_fields=True):
    items: list[WireAskedItem]


# Typed decoding stops at the first wrong value, so a hostile body never becomes a tree of Python objects; metadata
# alone may be one.
_DECODER = msgspec.json.Decoder(WireRequest)
_ASKED_DECODER = msgspec.json.Decoder(WireAskedRequest)


def parse_items(body: bytes, cfg: RewardConfig) -> list[RewardItem]:
    """Items of a request body.

    Raises:
        Refused: 400 for what is not JSON, 422 for what is not a request within the limits; the reason names the item.
    """
    # A string value cannot hold an unescaped quote, so this counts keys: too large a batch is refused unparsed.
    asked = needs_question(cfg)  # then metadata may have keys of this name, and items are not counted so
    if not asked and body.count(b'"response"') > 2 * cfg.max_batch:
        raise Refused(422, f"more than {cfg.max_batch} items (reward.max_batch); send smaller batches")
    try:
        wire = (_ASKED_DECODER if asked else _DECODER).decode(body)
    except msgspec.ValidationError as error:
        raise Refused(422, str(error)) from None
    except msgspec.DecodeError as error:
        raise Refused(400, f"malformed JSON: {error}") from None
    except RecursionError:
        raise Refused(400, "malformed JSON: nested too deeply") from None
    except UnicodeDecodeError:
        raise Refused(400, "malformed JSON: not UTF-8") from None
    if len(wire.items) > cfg.max_batch:
        raise Refused(422, f"{len(wire.items)} items, at most {cfg.max_batch} (reward.max_batch); send smaller batches")
    return [_checked(i, item) for i, item in enumerate(wire.items)]


def _checked(index: int, wire: WireItem) -> RewardItem:
    if bool(wire.options) == bool(wire.letters):
        raise Refused(422, f"items[{index}]: expected either options (texts) or letters (such as 'ABCD')")
    item = RewardItem(wire.response, wire.answer, wire.options, wire.letters)
    try:
        check_item(item)
        if isinstance(wire, WireAskedItem):
            item = replace(item, prompt=wire.prompt, question=_question(wire))
    except ValueError as error:
        raise Refused(422, f"items[{index}]: {error}") from None
    return item


def _question(wire: WireAskedItem) -> Question:
    """Raises: ValueError: it is none; its options may be missing, or say the same twice."""
    if not wire.options:
        raise ValueError("letters without options; reward functions get the whole question, so send its options")
    asked = wire.question
    return Question(
        asked.id, asked.dataset, asked.stem, wire.options, wire.answer, asked.context, asked.level, asked.metadata
    )
