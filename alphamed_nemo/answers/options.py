"""The options of a question in the form that answer extraction compares with, and the reading of a short answer.

`read_whole` reads a text that should be an answer and nothing else: the content of a box, a last line, the subject of
"... is correct". It takes at most `MAX_ANSWER_CHARS` characters, so its cost does not grow with the response.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from alphamed_nemo.data.question import LETTERS

MAX_ANSWER_CHARS = 1000  # longer than any option of the six benchmarks; a longer "answer" is not one
CACHED_CHARS = 4000  # options longer than this in all are not cached, so that hostile ones cannot fill the memory
AMBIGUOUS = "?"  # stated, but not as exactly one of the options
AROUND = "()[]\"' ."  # may stand around an answer without changing it
WORDS = frozenset(("yes", "no", "maybe"))
_HEAD = re.compile(r"[a-z0-9]+|.", re.S)  # what normalising leaves as it is

_PLAIN = str.maketrans(  # one way to write quotes, dashes and brackets; markup becomes a space
    dict(zip("’‘“”–—−（）：。", "''\"\"---():.", strict=True)) | {c: " " for c in "{}$*_`#\\~"}
)
_TEX = re.compile(r"\\(?:[a-zA-Z]+|.)")  # a TeX command or an escaped character
_LABEL = re.compile(
    r"""(?:(?:the|final|correct|answer|option|choice|letter|statement|is)\b[\s:"'(\[<]{0,3}){0,4}
    (?P<open>[(\[<"']{0,2})\s?(?P<letter>[a-z])(?![a-z0-9']|-[a-z0-9])\s?(?P<close>[)\]>"'.:,;\-/=]*)\s*""",
    re.X,
)
_SECOND_LETTER = re.compile(
    r"(?:^|and|or|[,;/&+|]|vs\.?)\s*[(\[]?([a-z])(?=$|[\s)\].:,;/&+|])(?!\s(?!and\b|or\b)[a-z]{2})"
)
_NEXT_LABEL = re.compile(r"(?:^|[\s,;(])([a-z])(?:[):](?:\s|$)|\.\s)")
_ASIDE = re.compile(r"\([^()]{3,}\)")
EPITHET = re.compile(  # "C. difficile" names a germ, not option C
    r"coli\b|diffic|perfring|botulin|tetani|diphther|jejuni|albicans|neoform|trachom|pneumon|psittac|burnet|fumigat|flavus"
    r"|bauman|anthrac|cereus|fragil|burgdorf|pertuss|hensel|abort|meliten|faecal|faeci|granulos|histolyt|cloac|immitis"
    r"|glabrata|auris|freund|aureus|elegans|histo|[egvm]\b"  # and "e.g.", "i.v."
)


class Choices:
    """Options ready for comparison.

    Attributes:
        letters: the option letters in order.
        texts: normalised option texts, empty where only the letters are known.
        by_text: normalised text → letter; AMBIGUOUS where two options share it.
        by_case: the same with case kept, filled only where options share a text; `letter_of` looks in both.
        boxes: `{C}`, `{c}` → letter, the quick look-up for the usual box.
        alone: `C`, `c` → letter.
        words: the options are yes, no and maybe.
        heads: first words of the texts, or first characters of those that begin with none: the quick test of whether
            one can stand somewhere.
        longest_head: characters of the longest of them.
        longest: characters of the longest text.
    """

    __slots__ = (
        "alone",
        "heads",
        "longest_head",
        "letters",
        "texts",
        "by_text",
        "by_case",
        "boxes",
        "words",
        "longest",
    )

    def __init__(self, options: Sequence[str]):
        if isinstance(options, str):
            self.letters, cased = options, ()
        else:
            self.letters, cased = LETTERS[: len(options)], tuple(plain(option) for option in options)
        self.texts = texts = tuple(text.lower() for text in cased)
        self.by_text = _letters_by_text(texts, self.letters)
        self.by_case = _letters_by_text(cased, self.letters) if AMBIGUOUS in self.by_text.values() else {}
        self.alone = {shown: letter for letter in self.letters for shown in (letter, letter.lower())}
        self.boxes = {f"{{{shown}}}": letter for shown, letter in self.alone.items()}
        self.words = bool(texts) and WORDS.issuperset(texts)
        self.heads = tuple({head.group() for text in texts if (head := _HEAD.match(text))})
        self.longest_head = max(map(len, self.heads), default=0)
        self.longest = max(map(len, texts), default=0)

    def letter_of(self, shown: str) -> str | None:
        """The letter of the option with this text, given as `plain` leaves it; case counts only where it has to.

        AMBIGUOUS where two options have it, None where none has.
        """
        letter = self.by_text.get(shown.lower())
        return self.by_case.get(shown, AMBIGUOUS) if letter == AMBIGUOUS else letter

    def text_of(self, letter: str) -> str:
        return self.texts[self.letters.index(letter)] if self.texts else ""


def _letters_by_text(texts: Sequence[str], letters: str) -> dict[str, str]:
    """Text → letter, with and without what may stand around it; AMBIGUOUS for a text that two options share."""
    found: dict[str, str] = {}
    for shown in (texts, [text.strip(AROUND) for text in texts]):
        known = set(found)  # an option's whole text comes before another's without its brackets
        for text, letter in zip(shown, letters, strict=False):
            if text and text not in known:
                found[text] = letter if found.get(text, letter) == letter else AMBIGUOUS
    return found


@lru_cache(maxsize=4096)
def _cached(options: tuple[str, ...] | str) -> Choices:
    return Choices(options)


def choices_of(options: Sequence[str]) -> Choices:
    """Choices of option texts in order, or of letters alone given as a string such as "ABCD"."""
    if isinstance(options, str):
        return _cached(options)
    options = tuple(options)
    return _cached(options) if sum(map(len, options)) <= CACHED_CHARS else Choices(options)


def normalise(text: str) -> str:
    """Lower case, plain quotes and dashes, single spaces; no TeX commands, markup, or punctuation around it."""
    return plain(text).lower()


def plain(text: str) -> str:
    """What `normalise` makes of a text, with its case kept."""
    if "\\" in text:
        text = _TEX.sub(" ", text)
    return " ".join(text.translate(_PLAIN).split()).strip(" .,;:!\"'")


def is_letter(text: str) -> bool:
    """Whether `text` is a letter first, even where an option's text is that letter (blood groups)."""
    return len(text) == 1 and text.isalpha()


def read_whole(text: str, choices: Choices, paraphrase: bool = True) -> str | None:
    """The letter that `text` states when it should hold an answer and nothing else.

    Args:
        text: the content of a box, a last line, the subject of "... is correct".
        choices: what can be stated.
        paraphrase: a letter with punctuation may be followed by other words than its option's own text.

    Returns:
        a letter of `choices`; AMBIGUOUS where it states several letters, a letter that is no option, or a letter with
        the text of another option; None where it is no answer at all.
    """
    if text in choices.alone:
        return choices.alone[text]
    if len(text) > MAX_ANSWER_CHARS:
        return None
    cased = plain(text)
    answer = cased.lower()
    if not answer:
        return None
    bare = answer.strip(AROUND)
    if answer in choices.by_text and not is_letter(bare):
        return choices.letter_of(cased)
    if bare in choices.by_text and not is_letter(bare):
        return choices.letter_of(cased.strip(AROUND))
    if len(answer) > 1:
        if choices.words:
            word = answer.split(",")[0].split(".")[0].split(":")[0].strip(" \"'()")
            if word in choices.by_text:
                return choices.by_text[word]
    label = _LABEL.match(answer)
    if label is None:
        return _text_with_letter(cased, choices)
    letter = label["letter"].upper()
    rest = answer[label.end() :]
    if letter not in choices.letters:
        return choices.by_text.get(answer, AMBIGUOUS if not rest else None)
    if choices.by_case and len(cased) == len(answer) and _is_another(letter, cased[label.end() :], choices):
        return AMBIGUOUS
    return _check_rest(
        letter,
        label["close"] or label["open"] or rest[:1].strip("abcdefghijklmnopqrstuvwxyz0123456789?"),
        rest,
        choices,
        paraphrase,
    )


def _is_another(letter: str, rest: str, choices: Choices) -> bool:
    """Whether what follows a letter is, by its case, the text of another option than the letter's."""
    return choices.letter_of(rest.strip(AROUND)) not in (letter, AMBIGUOUS, None)


def _check_rest(letter: str, mark: str, rest: str, choices: Choices, paraphrase: bool) -> str | None:
    """`letter`, unless what follows it takes it back: another letter, or another option's text."""
    own = choices.text_of(letter)
    if own and own.strip(AROUND) == rest.strip(AROUND):
        return letter
    rest = rest.strip(" )]")
    if not rest:
        return letter
    if rest in choices.by_text or any(found.upper() in choices.letters for found in _SECOND_LETTER.findall(rest)):
        return AMBIGUOUS
    if own and (rest.startswith(own) or (len(rest) > 3 and own.startswith(rest))):
        return letter
    if any(found.upper() in choices.letters for found in _NEXT_LABEL.findall(_ASIDE.sub(" ", rest))):
        return AMBIGUOUS
    if not paraphrase or not mark or mark in ("'", "/") or EPITHET.match(rest):
        return None  # "A patient with ...": an article, not a letter
    return letter


def _text_with_letter(cased: str, choices: Choices) -> str | None:
    """ "ibuprofen (C)" or "ibuprofen - option C": an option's text followed by its letter."""
    answer = cased.lower()
    tail = re.search(r"[\s(\[\-:]+(?:option |choice |answer )?\(?([a-z])[)\]]*$", answer[-20:])
    if tail is None:
        return None
    shown = cased[: len(cased) - len(tail.group())].strip(" .,;:()[]-")
    named, letter = choices.letter_of(shown), tail.group(1).upper()
    if named is None or letter not in choices.letters:
        return None
    # Where two options share the text, the letter tells which is meant.
    agrees = named == letter or (named == AMBIGUOUS and choices.text_of(letter) == shown.lower())
    return letter if agrees else AMBIGUOUS
