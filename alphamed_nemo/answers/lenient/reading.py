"""Reading the choice that stands at one place of a response, after a cue such as "the answer is"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alphamed_nemo.answers.boxed import BOX, box_content
from alphamed_nemo.answers.lenient import cues
from alphamed_nemo.answers.lenient.guards import LOOK_BACK, unfinished
from alphamed_nemo.answers.options import AMBIGUOUS, AROUND, EPITHET, Choices, is_letter, read_box
from alphamed_nemo.answers.plain import normalise, plain, replaced

_PLAIN = {ord(char): plainly for char, plainly in zip("’‘“”：（）＝–—−", "''\"\":()=---", strict=True)}
_TYPOGRAPHIC = re.compile("[’‘“”：（）＝–—−]")
_ASCII_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_LETTER = re.compile(  # not one with a sub- or superscript, a sign or a prime
    r"[a-z](?![a-z0-9'^′⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉₊₋]|[-–][a-z0-9]|[$*]{0,2}_[$*]{0,2}[a-z0-9{+-]|\$?\^|[+%°])"
)
_CLOSERS = re.compile(r"[)\]}\"'*`$>_]{0,6}")
_ARTICLE_FIRST = ("t", "a", "i")
_ARTICLE = re.compile(r"(?:the|an?|it's|it is)\s+")
_WORD_END = re.compile(r"(?![a-z0-9])(?!-[a-z0-9])(?!\.[0-9])")
_FORMULA = re.compile(  # after a letter: it is a variable, "b = 0.5", "h \\nu", "(A (I - 1)"
    r"\s{0,2}(?:[=^<≈≤≥≠×·÷]\s?[\w\\$({-]|\\(?:[a-z]{2,}|[,;])|=\s?$)"
)
_JOINED = re.compile(r"\s?(?:,|/|and|or|vs)\s")
_LETTER_AFTER = re.compile(r"\s?[(\[](?:option |choice )?([a-z])[)\]]")
_BESIDE = re.compile(  # between a letter and a text that says which option is meant
    r"(?:,?\s(?:which|that) is\b|,?\s(?:namely|i\.e\.),?|(?P<apart>[.,:;]|\s?(?:[-–—=](?=\s)|\n)))?[\s*_`\"'$(\[]{0,8}"
)
_AND_ANOTHER = re.compile(  # after a letter and its text: "and (J)", "or **E."
    r"[\s*_)\]\"'`$]{0,6}(?:and|or|&|and/or)\s+(?:option |choice )?[(\[*\"'`$]{0,4}([a-z])[)\].:*]{1,3}\s?"
)
_FOR_EACH = re.compile(  # after a letter: "for the first part, (D) for the second"
    r"\s{0,2}for\s[^.;,\n]{1,60},\s(?:and\s)?[(\[*]{0,2}([a-z])[)\]*]{0,2}\sfor\s"
)
_NEXT_BULLET = re.compile(r"[*_.]{0,4}\n\s{0,4}[-*•]\s[*_]{0,3}")
_WHOLE = re.compile(r"[)\]\"'*_`$ ]{0,4}(?:[.!}<\n]|$|,?\s(?:because|since|as|which|due)\b)")
OPENERS = "([{\"'*<`$_"
STOPS = ".,;:!)]}\"'*`>\n|<"
NEAR = 16  # characters: marks before a "not", an article before an option's text
SHORT = 3  # characters; an option text no longer than this needs a clean end, since "no" also begins "no longer"


@dataclass(frozen=True, slots=True)
class Text:
    """A window of a response.

    Attributes:
        raw: the characters as written.
        low: the same in lower case with plain quotes, equally long.
        choices: what can be stated.
    """

    raw: str
    low: str
    choices: Choices

    @classmethod
    def of(cls, raw: str, choices: Choices) -> Text:
        low = raw.lower()
        if raw.isascii():
            return cls(raw, low, choices)
        if len(low) != len(raw):
            low = raw.translate(_ASCII_LOWER)
        return cls(raw, replaced(low, _TYPOGRAPHIC, _PLAIN), choices)


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice read from a text.

    Attributes:
        letter: a letter of the choices, or AMBIGUOUS.
        end: position after it.
        by_text: read from the option's text, not from a letter.
    """

    letter: str
    end: int
    by_text: bool = False


def read_choice(text: Text, position: int, colon: bool = False, texts: bool = True) -> Choice | None:
    """The choice that stands at `position`, after fillers and opening marks.

    Args:
        text: the window.
        position: where the cue ends.
        colon: the cue ended on a colon or a line break, after which even a bare lower-case "a" is a letter.
        texts: an option's own text is a choice too.

    Returns:
        None where no choice stands there, or one that is denied, asked or made to depend on a condition.
    """
    low = text.low
    turned = cues.NOT_BUT.match(low, position) if "not" in low[position : position + NEAR] else None
    if turned:
        position = turned.end()
    start = _past(cues.OPENING, low, position)
    if start - position > len(BOX) and (box := low.find(BOX, position, start)) >= 0:
        return _boxed(text, box)
    own = _own_text_after(text, position, start) if texts and text.choices.longest else None
    if own is None:
        own = letter_at(text, start, colon)
        if own is not None and (cues.DENIAL.match(low, position) or cues.DENIAL.match(low, start)):
            return None
    if own is None or own.letter == AMBIGUOUS:
        return own
    if cues.CONDITION.match(low, own.end) or cues.SUBJECT.match(low, own.end) or _asked(text, own.end):
        return None
    several = _names_another(text, own) if own.by_text else _is_another_text(text, own) or _goes_on(text, own)
    return Choice(AMBIGUOUS, own.end) if several else own


def _names_another(text: Text, chosen: Choice) -> bool:
    """Whether the text of another option is the next entry of a list that begins with the chosen one's."""
    bullet = _NEXT_BULLET.match(text.low, chosen.end)
    other = own_text_at(text, bullet.end()) if bullet else None
    return other is not None and other.letter != chosen.letter and _WHOLE.match(text.low, other.end) is not None


def _goes_on(text: Text, chosen: Choice) -> bool:
    """Whether another letter follows what is said of the chosen one: "(B) Iron and (D) Gold", "B for x, D for y"."""
    each = _FOR_EACH.match(text.low, chosen.end)
    if each:
        return each[1].upper() != chosen.letter and each[1].upper() in text.choices.letters
    beside = _BESIDE.match(text.low, chosen.end) if text.choices.longest else None
    own = own_text_at(text, beside.end()) if beside and beside.end() > chosen.end else None
    more = _AND_ANOTHER.match(text.low, own.end) if own and own.letter == chosen.letter else None
    other = own_text_at(text, more.end()) if more else None
    return more is not None and other is not None and other.letter == more[1].upper() != chosen.letter


def _is_another_text(text: Text, chosen: Choice) -> bool:
    """Whether the text of another option stands beside the letter: "the answer is (A) Warfarin" where that is B.

    After a stop, comma, colon or dash only as a whole: "the answer is C. Aspirin would bleed" goes on to another one.
    """
    choices = text.choices
    beside = _BESIDE.match(text.low, chosen.end) if choices.longest else None
    other = own_text_at(text, beside.end()) if beside and beside.end() > chosen.end else None
    if beside is None or other is None or other.letter in (chosen.letter, AMBIGUOUS):
        return False
    if choices.text_of(chosen.letter).startswith(choices.text_of(other.letter)):  # its own, shortened
        return False
    return not beside["apart"] or _WHOLE.match(text.low, other.end) is not None


def _boxed(text: Text, start: int) -> Choice | None:
    """The choice that the box at `start` holds, which is the whole of it."""
    content = box_content(text.raw, start)
    letter = read_box(content, text.choices) if content else None
    return Choice(letter, text.raw.index(content, start) + len(content) + 1) if content and letter else None


def _asked(text: Text, end: int) -> bool:
    """Whether an option's text follows its letter and ends on a question mark: "is it B. Warfarin?"."""
    if "?" not in text.low[end : end + text.choices.longest + NEAR]:
        return False
    named = own_text_at(text, _past(cues.MARKS, text.low, end + (text.low[end : end + 1] in (".", ")"))))
    return named is not None and text.low.startswith("?", named.end)


def _past(marks: re.Pattern[str], low: str, position: int) -> int:
    """Where the marks end that stand at `position`; the pattern matches none at all, too."""
    found = marks.match(low, position)
    assert found is not None, f"{marks.pattern!r} must match the empty string"
    return found.end()


def _own_text_after(text: Text, position: int, start: int) -> Choice | None:
    """An option's text at `position` with its own opening marks and words, or without them at `start`."""
    reach = text.low[position : start + NEAR + text.choices.longest_head]
    if not any(head in reach for head in text.choices.heads):
        return None
    for begin in (_past(cues.BLANKS, text.low, position), _past(cues.MARKS, text.low, position), start):
        own = own_text_at(text, begin)
        if own:
            return own
    return None


def own_text_at(text: Text, start: int) -> Choice | None:
    """The option whose own text stands at `start`; the longest where several fit."""
    choices = text.choices
    article = _ARTICLE.match(text.low, start) if text.low[start : start + 1] in _ARTICLE_FIRST else None
    for begin in (start, article.end()) if article else (start,):
        if not text.low.startswith(choices.heads, begin):
            continue
        shown = normalise(text.low[begin : begin + choices.longest + 60])
        fits = [t for t in choices.texts if t and shown.startswith(t) and _WORD_END.match(shown, len(t))]
        if fits:
            return _read_own(text, begin, shown, max(fits, key=len))
    return None


def _read_own(text: Text, begin: int, shown: str, own: str) -> Choice | None:
    choices, rest = text.choices, shown[len(own) :]
    letter = choices.by_text[own]
    shared = letter == AMBIGUOUS
    if shared:  # unless its case tells which option it is
        letter = choices.letter_of(plain(text.raw[begin : begin + len(shown) + 60])[: len(own)]) or AMBIGUOUS
    if is_letter(own.strip(AROUND)):
        return None
    end = begin + len(own)
    if (
        (len(own) <= SHORT or choices.words)
        and rest
        and rest[0] not in ".,;:!?)(<\"'-"
        and not cues.CONNECTIVE.match(rest[1:])
    ):
        return None
    joined = _JOINED.match(rest)
    if joined and any(rest.startswith(t, joined.end()) for t in choices.texts if t and (t != own or shared)):
        return Choice(AMBIGUOUS, end, True)
    shown_letter = _LETTER_AFTER.match(rest)
    named = shown_letter.group(1).upper() if shown_letter else ""
    if letter == AMBIGUOUS and named and named in choices.letters and choices.text_of(named) == own:
        return Choice(named, end, True)
    if named and named in choices.letters and named != letter:
        return Choice(AMBIGUOUS, end, True)
    return Choice(letter, end, True)


def letter_at(text: Text, start: int, colon: bool) -> Choice | None:
    """The option letter that stands at `start`, told from articles, pronouns and initials by what surrounds it."""
    low, raw, choices = text.low, text.raw, text.choices
    if not _LETTER.match(low, start):
        return None
    letter, is_upper = low[start].upper(), raw[start].isupper()
    after = _past(_CLOSERS, low, start + 1)
    opened = start > 0 and low[start - 1] in OPENERS
    stop = low[after : after + 1]
    punctuated = opened or after > start + 1 or stop == "" or stop in STOPS
    if letter not in choices.letters:
        return Choice(AMBIGUOUS, after) if is_upper and letter != "I" and punctuated else None
    if _is_variable(text, start, after, letter):
        return None
    if raw[start] in choices.items:
        return Choice(AMBIGUOUS, after)
    other = cues.ANOTHER_LETTER.match(low, after)
    if other and other.group(1).upper() != letter and _is_option_like(raw[other.start(1)], choices):
        mark = low[after : after + 4].lstrip()[:1]
        apart = {",": cues.OTHERS_WRONG, ";": cues.ANOTHER_SENTENCE}.get(mark)
        if apart is None or not apart.match(low, other.end()):
            return Choice(AMBIGUOUS, after)
    if stop == ".":
        named = after + 1 + (low[after + 1 : after + 2] == " ")
        if EPITHET.match(raw, named):
            own = own_text_at(text, named)
            return Choice(letter, after) if own and own.letter == letter else None
    if unfinished(low, after):
        return Choice(AMBIGUOUS, after)
    if not stop and opened and after == start + 1:  # "the answer is (C": cut off, perhaps within a word
        return None
    if letter in "AI" and not is_upper:  # "a" and "i" are words of their own
        closed = after > start + 1 and not (raw[start + 1] == ")" and _within_brackets(low, start))
        strong = opened or closed or stop in (":", ")") or (colon and stop in ("", "\n", "."))
        return Choice(letter, after) if stop and strong or (colon and not stop) else None
    if punctuated or stop in "-–—→/|":
        return Choice(letter, after)
    follow = after + 1
    if cues.CONNECTIVE.match(low, follow) or low[follow : follow + 1] in "(-–—→=|":
        return Choice(letter, after)
    own = own_text_at(text, follow)
    return Choice(letter, after) if own and own.letter == letter and is_upper else None


def _within_brackets(low: str, position: int) -> bool:
    """Whether a bracket that was opened shortly before is still open: "(..., so it must be i)"."""
    since = max(0, position - LOOK_BACK)
    return low.rfind("(", since, position) > low.rfind(")", since, position)


def _is_option_like(shown: str, choices: Choices) -> bool:
    """Whether a letter beside another makes several answers of them: an option's, or any capital one but "I"."""
    return shown.upper() in choices.letters or (shown.isupper() and shown != "I")


def _is_variable(text: Text, start: int, after: int, letter: str) -> bool:
    """Whether the letter at `start`, with its closing marks up to `after`, belongs to a formula."""
    low = text.low
    opener = low[start - 1 : start]
    if after == start + 1:
        if opener == "$" and low[after : after + 1] not in (".", ":", ")", ""):
            return True
        if opener in ("(", "[") and low.startswith(("(", " ("), after):
            return True
    elif (
        opener == "{"
        and "$" in low[max(0, start - NEAR) : start]
        and low[after - 1] == "}"
        and low[after : after + 1] != "$"
    ):
        return True  # "$\\mathrm{d} p"
    if not _FORMULA.match(low, after):
        return False
    own = own_text_at(text, _past(cues.MARKS, low, after))
    return own is None or own.letter != letter
