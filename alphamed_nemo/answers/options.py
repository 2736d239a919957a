"""The options of a question in the form that answer extraction compares with, and the reading of a short answer.

`read_whole` reads a text that should be an answer and nothing else: the content of a box, a last line, the subject of
"... is correct". It takes at most `MAX_ANSWER_CHARS` characters, so its cost does not grow with the response.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache

from alphamed_nemo.answers.plain import all_plain, plain
from alphamed_nemo.data.question import LETTERS

MAX_ANSWER_CHARS = 1000  # longer than any option of the six benchmarks; a longer "answer" is not one
CACHED_CHARS = 4000  # options longer than this in all are not cached, so that hostile ones cannot fill the memory
AMBIGUOUS = "?"  # stated, but not as exactly one of the options
AROUND = "()[]\"' ."  # may stand around an answer without changing it
WORDS = frozenset(("yes", "no", "maybe"))
_HEAD = re.compile(r"[a-z0-9]+|.", re.S)  # what normalising leaves as it is

_LABEL = re.compile(
    r"""(?:(?:the|final|correct|answer|option|choice|letter|statement|is)\b[\s:="'(\[<]{0,3}){0,4}
    (?P<open>[(\[<"']{0,2})\s?(?P<letter>[a-z])(?![a-z0-9']|-[a-z0-9])\s?(?P<close>[)\]>"'.:,;\-/=]*)\s*""",
    re.X,
)
_SECOND_LETTER = re.compile(
    r"(?:^|and|or|[,;/&+|]|vs\.?)\s*[(\[]?([a-z])(?=$|[\s)\].:,;/&+|])(?!\s(?!and\b|or\b)[a-z]{2})"
)
_NEXT_LABEL = re.compile(r"(?:^|[\s,;(])([a-z])(?:[):](?:\s|$)|\.\s)")
_CAPITAL = re.compile(r"(?<![A-Za-z0-9'-])([A-Z])(?![A-Za-z0-9'-]|\s[a-z]{2})")
_PROSE = re.compile(r"[a-z]{2}")
_ASIDE = re.compile(r"\([^()]{3,}\)")
EPITHET = re.compile(  # after "C. ": a germ's name (or "e.g.", "i.v."), so the letter is no option
    r"(?:(?i:coli|diff|difficile|albicans|jejuni|perfringens)|botulinum|tetani|diphtheriae|neoformans|trachomatis"
    r"|pneumoniae|psittaci|burnetii|fumigatus|flavus|baumannii|anthracis|cereus|fragilis|burgdorferi|pertussis|henselae"
    r"|abortus|melitensis|faecalis|faecium|granulosus|histolytica|cloacae|immitis|glabrata|auris|krusei|freundii"
    r"|aureus|elegans|histo|aerogenes|vermicularis|dubliniensis|tropicalis|parapsilosis|canis|quintana|[egvm])\b"
)
_LETTER_LAST = re.compile(r"[\s(\[\-:]+(?:option |choice |answer )?\(?([a-z])[)\]]*$")
_ITEM = re.compile(r"(?<![A-Za-z0-9])([a-z])\)(?=\s|$|[,;])")
_MAY_NUMBER = re.compile(r"[^\x00-\x7f]|[)_$^\\]|ii")  # the quick test for what the two find in a text made plain
_ROMAN = re.compile(r"\bii\b")
_OPERATOR = re.compile(r"[=+^<>≠≈≤≥±×·÷→←|]")  # at the beginning of what follows a letter: a formula
_TAKEN_BACK = re.compile(  # in a box, beside its option: it says something else than this one option
    r"\b(?:not|no|nor|never|wrong|incorrect|false|untrue|except|unless|instead|rather|wait|actually|sorry|correction"
    r"|either|both|neither|maybe|perhaps|possibly|unlikely|doubt\w*|ruled? out|excluded?|vs|versus|changed|eliminated?"
    r"|none|all but|everything but)\b|n't\b|[?≠¬→←]"
    r"|(?<!answer )=(?!\s*$)"
)
_STRUCK = re.compile(r"\s*[!~]|[^']*[A-Za-z]'{1,2}\s*\Z")  # "!C", "~~C~~", "C'": marks of a negation or a complement
_WRONG = re.compile(
    r"\b(?:is|are|was|would be|seems)\s(?:\w+\s)?(?:incorrect|wrong|false|unlikely|less|inappropriate"
    r"|contraindicated|not)\b"
)
DENIED = re.compile(  # right after an option: it is spoken of, not answered with
    r"[\s:;,.()-]{0,4}(?:(?:is|was|are|would be|seems|this is|it is|it's)\s)?(?:\w+ly\s|also\s)?"
    r"(?:not|no|never|wrong|incorrect|false|unlikely|less likely|inappropriate|contraindicated|ruled out|excluded|isn't"
    r"|wasn't|doesn't|does|cannot|can't|can|could|might|may|would|has|have|is|are|was)\b"
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
        items: lower-case letters that the options' own texts number things with, "(a) 5 mg, (b) 10 mg"; they name none.
        heads: first words of the texts, or first characters of those that begin with none: the quick test of whether
            one can stand somewhere.
        longest_head: characters of the longest of them.
        longest: characters of the longest text.
        written: the option texts as they were given, empty where only the letters are known.
        lowered: the same in lower case.
    """

    def __init__(self, options: Sequence[str]):
        """Everything but the letters is made when it is first asked for: most responses are read by their letter."""
        self.written = () if isinstance(options, str) else tuple(options)
        self.letters = options if isinstance(options, str) else LETTERS[: len(options)]

    @cached_property
    def _cased(self) -> tuple[str, ...]:
        return all_plain(self.written)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        return tuple([text.lower() for text in self._cased])

    @cached_property
    def lowered(self) -> tuple[str, ...]:
        return tuple(option.lower() for option in self.written)

    @cached_property
    def by_text(self) -> dict[str, str]:
        return _letters_by_text(self.texts, self.letters)

    @cached_property
    def by_case(self) -> dict[str, str]:
        return _letters_by_text(self._cased, self.letters) if AMBIGUOUS in self.by_text.values() else {}

    @cached_property
    def items(self) -> frozenset[str]:
        return _items(self._cased) if _MAY_NUMBER.search("\n".join(self.written)) else frozenset()

    @cached_property
    def alone(self) -> dict[str, str]:
        return _alone(self.letters, self.items)[0]

    @cached_property
    def boxes(self) -> dict[str, str]:
        return _alone(self.letters, self.items)[1]

    @cached_property
    def words(self) -> bool:
        return 0 < len(self.letters) <= len(WORDS) and bool(self.texts) and WORDS.issuperset(self.texts)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        return tuple({head.group() for text in self.texts if (head := _HEAD.match(text))})

    @cached_property
    def longest_head(self) -> int:
        return max(map(len, self.heads), default=0)

    @cached_property
    def longest(self) -> int:
        return max(map(len, self.texts), default=0)

    def letter_of(self, shown: str) -> str | None:
        """The letter of the option with this text, given as `plain` leaves it; case counts only where it has to.

        AMBIGUOUS where two options have it, None where none has.
        """
        letter = self.by_text.get(shown.lower())
        return self.by_case.get(shown, AMBIGUOUS) if letter == AMBIGUOUS else letter

    def text_of(self, letter: str) -> str:
        return self.texts[self.letters.index(letter)] if self.texts else ""


def _items(texts: Sequence[str]) -> frozenset[str]:
    """Lower-case letters, "i" among them, that number things within the options' texts."""
    joined = "\n".join(texts)
    found = frozenset(_ITEM.findall(joined)) if ")" in joined else frozenset()
    return found | {"i"} if "ii" in joined and _ROMAN.search(joined) else found


@lru_cache(maxsize=256)
def _alone(letters: str, items: frozenset[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The letters as they stand alone, and in a box: `alone` and `boxes` of Choices."""
    alone = {shown: letter for letter in letters for shown in (letter, letter.lower()) if shown not in items}
    return alone, {f"{{{shown}}}": letter for shown, letter in alone.items()}


def _letters_by_text(texts: Sequence[str], letters: str) -> dict[str, str]:
    """Text → letter, with and without what may stand around it; AMBIGUOUS for a text that two options share."""
    found = dict(zip(texts, letters, strict=False))
    found.pop("", None)
    if len(found) == len(texts) and not any(text[0] in AROUND or text[-1] in AROUND for text in texts):
        return found  # the usual case: each has its own, and nothing stands around any
    found = {}
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
    if answer.endswith("?"):
        return None  # "is the answer C?"
    label = None if answer.endswith(")") and _text_with_letter(cased, choices) else _LABEL.match(answer)
    if label is None:
        return _text_with_letter(cased, choices)
    letter = label["letter"].upper()
    rest = answer[label.end() :]
    if letter not in choices.letters:
        return choices.by_text.get(answer, AMBIGUOUS if not rest else None)
    if choices.items and not rest and cased[label.start("letter")] in choices.items and len(cased) == len(answer):
        return choices.by_text.get(bare, AMBIGUOUS)
    if choices.by_case and len(cased) == len(answer) and _is_another(letter, cased[label.end() :], choices):
        return AMBIGUOUS
    mark = label["close"] or label["open"] or ("(" if answer[label.end() - 1 : label.end() + 1] == " (" else "")
    if (">" in mark and "<" not in label["open"]) or "=" in mark:
        mark = ""
    return _check_rest(letter, mark, rest, cased[-len(rest) :], choices, paraphrase)


def read_box(content: str, choices: Choices) -> str | None:
    """The letter that the content of a box states; None where it does not state exactly one option and nothing else.

    An equation, a negation, a correction or a question is not an answer.
    """
    letter = read_whole(content, choices)
    if letter is None or letter == AMBIGUOUS or content in choices.alone:
        return letter
    cased = plain(content)
    shown = cased.lower()
    if shown in choices.by_text or choices.words:
        return letter
    own = choices.text_of(letter)
    at = shown.find(own) if own and len(cased) == len(shown) else -1
    beside = cased if at < 0 else f"{cased[:at]} {cased[at + len(own) :]}"
    others = {found for found in _CAPITAL.findall(beside) if found in choices.letters} - {letter}
    if others or _TAKEN_BACK.search(beside.lower()) or _STRUCK.match(content):
        return None
    beside = beside.lower()
    return None if any(len(text) > 3 and text != own and text in beside for text in choices.texts) else letter


def _is_another(letter: str, rest: str, choices: Choices) -> bool:
    """Whether what follows a letter is, by its case, the text of another option than the letter's."""
    return choices.letter_of(rest.strip(AROUND)) not in (letter, AMBIGUOUS, None)


def _check_rest(letter: str, mark: str, rest: str, cased: str, choices: Choices, paraphrase: bool) -> str | None:
    """`letter`, unless what follows it takes it back: another letter, another option's text, or a denial."""
    own = choices.text_of(letter)
    if own and own.strip(AROUND) == rest.strip(AROUND):
        return letter
    germ = mark.startswith(".") and EPITHET.match(cased)
    rest = rest.strip(" )]").lstrip("([")
    if not rest:
        return letter
    if rest in choices.by_text or any(found.upper() in choices.letters for found in _SECOND_LETTER.findall(rest)):
        return AMBIGUOUS
    if own and rest.startswith(own):
        return None if DENIED.match(rest, len(own)) or rest[len(own)].isalnum() else letter
    if own and len(rest) > 3 and own.startswith(rest):
        return letter
    if any(found.upper() in choices.letters for found in _NEXT_LABEL.findall(_ASIDE.sub(" ", rest))):
        return AMBIGUOUS
    if not paraphrase or not mark or mark in ("'", "/") or germ or not _PROSE.search(rest):
        return None  # "A patient with ...": an article, not a letter; "C - 1": a formula
    other = any(len(text) > 3 and rest.startswith(text) for text in choices.texts)
    return None if other or _OPERATOR.match(rest) or DENIED.match(rest) or _WRONG.search(rest) else letter


def _text_with_letter(cased: str, choices: Choices) -> str | None:
    """ "ibuprofen (C)" or "ibuprofen - option C": an option's text followed by its letter."""
    answer = cased.lower()
    tail = _LETTER_LAST.search(answer[-20:])
    if tail is None:
        return None
    shown = cased[: len(cased) - len(tail.group())].strip(" .,;:()[]-")
    named, letter = choices.letter_of(shown), tail.group(1).upper()
    if named is None or letter not in choices.letters:
        return None
    # Where two options share the text, the letter tells which is meant.
    agrees = named == letter or (named == AMBIGUOUS and choices.text_of(letter) == shown.lower())
    return letter if agrees else AMBIGUOUS
