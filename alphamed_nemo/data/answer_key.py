"""Which option a row names as the correct one: by its letter, its text, or its number where counting is clear.

A key that can be read in two ways is refused, never guessed: a wrong key looks like a weak model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alphamed_nemo.data.cells import Options, Unusable, text
from alphamed_nemo.data.question import LETTERS, same_text

LETTER = re.compile(r"\(?([A-Za-z])[.):]?")
LABELLED = re.compile(r"\(?([A-Za-z])[.):]+\s+(.+)", re.S)  # "B. Warfarin"
NUMBER = re.compile(r"(\d{1,2})(?:\.0+)?")  # CSV tools turn a column with gaps into floats
NUMERIC = re.compile(r"[-+]?[\d.,]+\s*%?")


@dataclass(frozen=True)
class Habit:
    """How a whole file gives its keys, as far as rows tell that can be read in one way only.

    Attributes:
        base: what its numbers count from, 0 or 1; None where no row tells.
        mixed: some of its numbers count from 0 and others from 1.
        by_text: rows name the option's text, and none its letter.
    """

    base: int | None = None
    mixed: bool = False
    by_text: bool = False


def habit_of(rows: Iterable[tuple[object, Options]]) -> Habit:
    """The habit of a file: 0 occurs only where counting starts at 0, the number of options only where it starts at 1.

    Args:
        rows: each row's answer as it stands there, and its options.
    """
    bases, letters, texts = set(), 0, 0
    for given, options in rows:
        try:
            shown = _shown(given)
        except Unusable:
            continue
        by_letter, by_text = _by_letter(shown, options.texts), _by_text(shown, options.texts)
        letters += bool(by_letter and not by_text)
        texts += bool(by_text and not by_letter)
        number = None if options.base is not None or _numeric(options.texts) else _number(shown)
        bases |= {0} if number == 0 else {1} if number == len(options.texts) else set()
    return Habit(min(bases) if len(bases) == 1 else None, len(bases) > 1, texts > 0 and letters == 0)


def key_of(given: object, options: Options, answer_text: object = None, habit: Habit | None = None) -> str:
    """The letter of the correct option; "" where none is given.

    Args:
        given: the row's answer: a letter in either case, an option's text, a number, or a list with one of these.
        options: the row's options.
        answer_text: the correct option's text, where the row has a field of its own for it.
        habit: of the file.

    Raises:
        Unusable: no option, more than one, or one by one reading and another by the next; says what is accepted.
    """
    shown, by_text = _shown(given), letter_of(answer_text, options.texts)
    if not shown:
        return by_text
    found = _readings(shown, options, habit or Habit())
    if by_text:
        if by_text not in found:
            raise Unusable("letter and text of the answer disagree", f"{shown} and {text(answer_text)}")
        return by_text
    letters = LETTERS[: len(options.texts)]
    accepted = f"expected a letter from A to {letters[-1:]}, or the text of one option"
    if not found:
        raise Unusable("answer not among the options", f"found {shown!r}, {accepted}")
    if len(set(found)) > 1:
        means = " or ".join(sorted(set(found)))
        raise Unusable(
            "ambiguous answer", f"found {shown!r}, which may mean {means}; write the letter, or add answer_text"
        )
    return found[0]


def letter_of(answer_text: object, options: Sequence[str]) -> str:
    """Letter of the one option with this text; "" where the text is empty.

    Case counts where it tells options apart, and is ignored elsewhere.

    Raises:
        Unusable: no option has it, or more than one.
    """
    wanted = text(answer_text, "answer_text")
    if not wanted:
        return ""
    letters = _letters_with(wanted, options)
    if not letters:
        raise Unusable("answer not among the options", f"found {wanted!r}, expected the text of one option")
    if len(letters) > 1:
        raise Unusable("ambiguous answer", f"found {wanted!r}, which is the text of {' and '.join(letters)}")
    return letters[0]


def _readings(shown: str, options: Options, habit: Habit) -> list[str]:
    """The letters that an answer may mean; more than one where it is ambiguous."""
    texts = options.texts
    by_letter, by_text = _by_letter(shown, texts), _letters_with(shown, texts)
    if by_letter and shown == by_letter and not habit.by_text:
        return [by_letter]  # a capital letter, the documented form, even where an option's text is that letter
    found = [letter for letter in (by_letter, *by_text) if letter]
    number = _number(shown)
    if number is not None and (by_text or options.base is not None or not _numeric(texts)):
        base = options.base if options.base is not None else habit.base
        if base is None and habit.mixed:
            raise Unusable(
                "ambiguous answer", f"found {shown!r}, and the file counts from 0 in one row, from 1 in another"
            )
        counted = [number - start for start in (0, 1) if base in (None, start)]
        found += [LETTERS[place] for place in counted if 0 <= place < len(texts)]
    labelled = LABELLED.fullmatch(shown)
    if labelled and not found:
        letters = _letters_with(labelled[2], texts)
        if letters and letters != [labelled[1].upper()]:
            raise Unusable("letter and text of the answer disagree", shown)
        found = letters
    return found


def _shown(given: object) -> str:
    """The answer as text, out of a list of one. Raises: Unusable."""
    if isinstance(given, (list, tuple)):
        if len(given) > 1:
            raise Unusable("more than one answer", ", ".join(str(item) for item in given))
        given = given[0] if given else None
    return text(given, "answer")


def _by_letter(shown: str, texts: Sequence[str]) -> str:
    match = LETTER.fullmatch(shown)
    return match[1].upper() if match and match[1].upper() in LETTERS[: len(texts)] else ""


def _by_text(shown: str, texts: Sequence[str]) -> str:
    letters = _letters_with(shown, texts)
    return letters[0] if len(letters) == 1 else ""


def _number(shown: str) -> int | None:
    match = NUMBER.fullmatch(shown)
    return int(match[1]) if match else None


def _numeric(texts: Sequence[str]) -> bool:
    """Whether options are numbers themselves, so that a number may name a text."""
    return any(NUMERIC.fullmatch(shown) for shown in texts)


def _letters_with(wanted: str, texts: Sequence[str]) -> list[str]:
    """Letters of the options with this text; without regard to case where none has it exactly."""
    for form in (same_text, lambda shown: same_text(shown).casefold()):
        named = form(wanted)
        letters = [letter for letter, shown in zip(LETTERS, texts, strict=False) if form(shown) == named]
        if letters:
            return letters
    return []
