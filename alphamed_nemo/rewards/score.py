"""What goes into the rule and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from alphamed_nemo.data.question import LETTERS, Question

CORRECT, WRONG, NO_ANSWER = "correct", "wrong", "no_answer"
LARGEST_REWARD = 1e9  # either side of 0: a batch has sums of squares, which float32 holds up to 1e38


class RewardError(RuntimeError):
    """The reward server gave no usable scores. Never to be read as a reward of 0."""


@dataclass(frozen=True, slots=True)
class RewardItem:
    """One response to grade.

    Attributes:
        response: the text that the model produced.
        answer: letter of the correct option.
        options: option texts in the order shown; empty where only the letters are known.
        letters: the option letters, used only where `options` is empty.
        prompt, question: what was asked; a user's own reward functions need both.
    """

    response: str
    answer: str
    options: tuple[str, ...] = ()
    letters: str = "ABCD"
    prompt: str = ""
    question: Question | None = None


class Score(msgspec.Struct, frozen=True, omit_defaults=True):
    """Grade of one response, as it travels.

    Attributes:
        reward: 1.0 where the stated answer is the key, else 0.0; with `reward.functions`, their weighted sum.
        answer: letter that the response states, None where it states none.
        reason: correct | wrong | no_answer; the rule's, whatever the reward.
        parts: with `reward.functions`, what each gave, before its weight; the rule's is `correct`. Else empty.
    """

    reward: float
    answer: str | None
    reason: str
    parts: dict[str, float] = msgspec.field(default_factory=dict)


def letters_of(item: RewardItem) -> str:
    """The letters that an answer may be."""
    return LETTERS[: len(item.options)] if item.options else item.letters


def check_item(item: RewardItem) -> None:
    """Raises ValueError where the item cannot be graded: bad options, bad letters, or a key that is none of them."""
    letters = letters_of(item)
    if not 2 <= len(item.options or item.letters) <= len(LETTERS):
        raise ValueError(f"{len(item.options or item.letters)} options, expected 2 to {len(LETTERS)}")
    if not item.options and not LETTERS.startswith(item.letters):
        raise ValueError(
            f"letters {item.letters!r}, expected the first letters of the alphabet in order, such as 'ABCD'"
        )
    if len(item.answer) != 1 or item.answer not in letters:
        raise ValueError(f"answer {item.answer[:20]!r} is not one of {', '.join(letters)}")
