"""From the bytes of a request to items that can be scored, or to the reason why not."""

from __future__ import annotations

from typing import Annotated

import msgspec

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.rewards.score import RewardItem, check_item

MAX_OPTION_CHARS = 10_000
MAX_REASON_CHARS = 300


class Refused(Exception):
    """A request that is not scored: HTTP status and the reason to send back."""

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


# Typed decoding stops at the first wrong value, so a hostile body never becomes a tree of Python objects.
_DECODER = msgspec.json.Decoder(WireRequest)


def parse_items(body: bytes, cfg: RewardConfig) -> list[RewardItem]:
    """Items of a request body.

    Raises:
        Refused: 400 for what is not JSON, 422 for what is not a request within the limits; the reason names the item.
    """
    # A string value cannot hold an unescaped quote, so this counts keys: too large a batch is refused unparsed.
    if body.count(b'"response"') > 2 * cfg.max_batch:
        raise Refused(422, f"more than {cfg.max_batch} items (reward.max_batch); send smaller batches")
    try:
        wire = _DECODER.decode(body)
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
    return [_checked(i, item, cfg) for i, item in enumerate(wire.items)]


def _checked(index: int, wire: WireItem, cfg: RewardConfig) -> RewardItem:
    if len(wire.response) > cfg.max_response_chars:
        raise Refused(
            422,
            f"items[{index}].response: {len(wire.response)} characters, at most {cfg.max_response_chars} "
            "(reward.max_response_chars)",
        )
    if bool(wire.options) == bool(wire.letters):
        raise Refused(422, f"items[{index}]: expected either options (texts) or letters (such as 'ABCD')")
    item = RewardItem(wire.response, wire.answer, wire.options, wire.letters)
    try:
        check_item(item)
    except ValueError as error:
        raise Refused(422, f"items[{index}]: {error}") from None
    return item
