"""What a cue word states: one reader for each kind of cue, which finds the choice beside it or nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from alphamed_nemo.answers.boxed import BOX, box_content
from alphamed_nemo.answers.lenient import cues
from alphamed_nemo.answers.lenient.guards import last_sentence, refused, said_by_others
from alphamed_nemo.answers.lenient.reading import Choice, Text, read_choice
from alphamed_nemo.answers.options import AMBIGUOUS, is_letter, read_box, read_whole
from alphamed_nemo.answers.plain import plain

SUBJECT = 240  # characters before "is the correct answer" where its subject is looked for
_STRONG = re.compile(r"answer|option|correct|right|\bchoice$")
_BEFORE_OWN = re.compile(  # what may stand before an option's text that is the subject of its sentence
    r"(?:^|[.,:;!?(]\s?|\b(?:therefore|thus|hence|so|that|think|believe|the|an?|only|clearly|conclude)\s)$"
)
_LABEL_BEFORE = re.compile(r"(?<![a-z0-9])[(\[*]{0,3}[a-z][).:\]]{1,2}[\s*]{0,3}.{0,8}$")  # "C. " before its text
_IN_APPOSITION = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice)\s[(\[*]{0,3}([A-Za-z])[)\]*]{0,3},\s[^,\n]+,\s$"
)  # "option C, ibuprofen, is"
_BY_LETTER = re.compile(r"\b[A-Za-z][)\].:*]*\s*$|\b(?:option|choice|answer)\b")
_VERDICT = re.compile(r"\s(is)\s(?:correct|right)\b")
_MATTER = frozenset(("solution", "result", "response", "option"))  # "the volume of the solution is 5 l"
# After these, which formulas use, too, a letter may be a variable.
_OF_FORMULAS = cues.LEADS | cues.VERBS | {"it is", "solution", "result", "label", "most", "best", "least"}
_MATH_LETTER = re.compile(
    r"(?:\$|\\\()\s?(?:\\(?:mathrm|mathbf|mathit|text|textbf)\s?\{)?([A-Za-z])\}?[*_]{0,2}\s?(?:\$|\\\))"
)
_SMALL_LETTER = re.compile(r"\s[a-z],\s")
_SENTENCE_OVER = re.compile(r"[*_\s]{0,3}(?:[.!]?(?:\s|$)(?![a-z]))")
_PART_OF = re.compile(
    r"\b(?:of|in|into|to|with|from|for)\s(?:(?:the|this|that|each|a|an)\s)?"
    r"(?:(?!(?:correct|right|best|final|chosen)\s)[a-z]+\s)?$"
)
_NONE_OF = re.compile(
    r"\W*(?:(?:therefore|thus|so|hence|but|overall|i think|i believe)\W{1,3})?(?:that )?(?:none|neither"
    r"|not (?:one|any)) of (?!the (?:other|remaining|rest)|those|these other)"
)
_LETTERS_FIRST = re.compile(
    r"\W*(?:(?:so|thus|both|either|neither|options?|choices?)\s)*[(\[]?[a-j][)\]]?\s?(?:,|and|or|nor|/)\s"
)
_ENTRY_END = re.compile(r"[ .,;)*]*(?:\n|$|\(?[a-z][).:])")


@dataclass(frozen=True, slots=True)
class Statement:
    """An answer, or AMBIGUOUS, stated in a window.

    Attributes:
        letter: a letter of the choices, or AMBIGUOUS.
        end: position after the statement.
        weak: only an option's text was named, without the word answer.
        verdict: no more than "C is correct", which may be said of several options in turn.
    """

    letter: str
    end: int
    weak: bool = False
    verdict: bool = False


def statement_at(window: Text, key: re.Match) -> Statement | None:
    """What the cue word `key` states, if it opens a statement at all."""
    statement = _READERS.get(key[1], _predicate)(window, key[1], *key.span(1))
    return None if statement and key[1] in _OF_FORMULAS and _is_variable(window, statement) else statement


def _is_variable(window: Text, statement: Statement) -> bool:
    """Whether the letter that a statement ends on is a variable: "so $c$ and $d$ are even", "so d, the sum, grows".

    A small letter is one in TeX's math, and after a word that leads to a statement one that is followed by a comma; a
    capital one in math where its sentence goes on.
    """
    letters = list(_MATH_LETTER.finditer(window.raw, max(0, statement.end - 20), statement.end + 3))
    found = letters[-1] if letters else None
    if found is None or found.end() < statement.end:
        return _SMALL_LETTER.match(window.raw, statement.end - 2) is not None
    return found[1].islower() or _SENTENCE_OVER.match(window.raw, found.end()) is None


def contradicted(window: Text, statement: Statement) -> bool:
    """Whether another option was called correct before, as one of several that are gone through."""
    if not statement.verdict:
        return False
    for found in _VERDICT.finditer(window.low, 0, statement.end):
        other = _predicate(window, "is", *found.span(1))
        if other is not None and other.verdict and other.letter != statement.letter:
            return True
    return False


def _box(window: Text, word: str, start: int, end: int) -> Statement | None:
    if window.raw[start - 1] != "\\":
        return None
    content = box_content(window.raw, end - len(BOX))
    letter = read_box(content, window.choices) if content else None
    if content is None or letter is None:
        return None
    closed = window.raw.index(content, end) + len(content) + 1
    if cues.NO_PREDICATE.match(window.low, closed) or refused(window.low, start - 1, closed):
        return None
    return Statement(letter, closed)


def _brackets(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "[[C]]", the form that judges are asked for."""
    choice = read_choice(window, start)
    if choice is None or window.low[choice.end - 2 : choice.end] != "]]" or refused(window.low, start, choice.end):
        return None
    return Statement(choice.letter, choice.end)


def _after_noun(window: Text, word: str, start: int, end: int) -> Statement | None:
    link = cues.LINK.match(window.low, end)
    if link is None:
        return _bare_noun(window, start, end) if word == "answer" else None
    if link.group()[-1] == "\n" and not cues.HEADING.search(window.low, max(0, start - 40), start):
        return None
    if word in _MATTER and _PART_OF.search(window.low, max(0, start - 40), start):
        return None
    colon = link.group()[-1] in ":=\n>"
    choice = read_choice(window, link.end(), colon)
    if choice is None and word == "answer" and cues.NO_OPTION.match(window.low, link.end()):
        return None if refused(window.low, start, link.end()) else Statement(AMBIGUOUS, link.end())
    if choice is None or refused(window.low, start, choice.end, "would" in link.group()) or _is_list(window, choice):
        return None
    weak = choice.by_text and not word.startswith(
        ("answer", "ans", "option", "choice", "conclusion", "prediction", "response")
    )
    return Statement(choice.letter, choice.end, weak)


def _after_shortened(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "Ans: C"."""
    link = cues.SHORTENED.match(window.low, end)
    return _sure(window, word, start, link.end()) if link else None


def _sure(window: Text, word: str, start: int, end: int) -> Statement | None:
    """The choice after a cue that cannot be anything else."""
    choice = read_choice(window, end, colon=True)
    if choice is None or refused(window.low, start, choice.end) or _is_list(window, choice):
        return None
    return Statement(choice.letter, choice.end)


def _bare_noun(window: Text, start: int, end: int) -> Statement | None:
    """ "Answer C" at the start of a line, or "final answer (C)": no verb, no colon."""
    low = window.low
    if not low.startswith(" ", end):
        return None
    before = low[max(0, start - 12) : start]
    if not before.endswith(
        ("\n", "\n**", "final ", "correct ", "best ", "i'd ", "i would ", "making the ", "makes the ")
    ):
        return None
    choice = read_choice(window, end)
    if choice is None or choice.by_text or refused(low, start, choice.end):
        return None
    return Statement(choice.letter, choice.end)


def _after_superlative(window: Text, word: str, start: int, end: int) -> Statement | None:
    phrase = cues.SUPERLATIVE.match(window.low, start)
    if phrase is None or "common" in phrase["noun"] or said_by_others(phrase.group()):
        return None
    choice = read_choice(window, phrase.end(), phrase.group().endswith(":"))
    if choice is None or refused(window.low, start, choice.end, "would" in phrase.group()) or _is_list(window, choice):
        return None
    return Statement(choice.letter, choice.end, choice.by_text or word == "least")


def _exception(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "The incorrect statement is (A)": the answer to a question that asks for the exception."""
    low = window.low
    phrase = cues.EXCEPTION.match(low, end)
    if phrase is None or not cues.BEFORE_EXCEPTION.search(low, max(0, start - 24), start):
        return None
    if word == "wrong" and phrase["noun"] in (" option", " choice"):  # may be said of any distractor
        return None
    return _unless_refused(window, phrase.end(), start, phrase.group().endswith(":"))


def _except(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "All of these are true except C." """
    low, back = window.low, max(0, start - 160)
    if low.rfind("{", back, start) > low.rfind("}", back, start) or not cues.BEFORE_EXCEPT.search(low, back, start):
        return None
    return _unless_refused(window, end + (4 if window.low.startswith(" for", end) else 0), end, True)


def _relative(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "The statement that is NOT true is C"; else what "that is" and "which is" begin."""
    phrase = cues.RELATIVE.match(window.low, end - 3 if word.endswith(" is") else end)
    before = cues.BEFORE_RELATIVE.search(window.low, max(0, start - 60), start) if phrase else None
    if phrase and before:
        return _unless_refused(window, phrase.end(), before.start(), phrase.group().endswith(":"))
    return _after_lead(window, word, start, end) if word.endswith(" is") else None


def _unless_refused(window: Text, position: int, start: int, colon: bool = False) -> Statement | None:
    """The choice at `position`, unless the sentence up to `start` takes it back."""
    choice = read_choice(window, position, colon)
    if choice is None or refused(window.low, start, choice.end) or _is_list(window, choice):
        return None
    return Statement(choice.letter, choice.end, choice.by_text)


def _after_verb(window: Text, word: str, start: int, end: int) -> Statement | None:
    low = window.low
    before = low[max(0, start - 10) : start]
    if word == "say" and not before.endswith(("i'd ", "i would ", "i'll ", "i ", "would ")):
        return None
    tail = cues.VERB_TAIL.match(low, end)
    if tail is None:
        return None
    choice = read_choice(window, tail.end() - (tail.group()[-1:] in OPENING_MARKS))
    if choice is None or refused(low, start, choice.end, chosen=True) or _is_list(window, choice):
        return None
    return Statement(choice.letter, choice.end, choice.by_text)


OPENING_MARKS = tuple("*_`\"'$([")


def _after_lead(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "Therefore, C." A letter alone: the text of an option after "therefore" may be anything."""
    low = window.low
    position = end + (low[end : end + 1] in (",", ":"))
    if not low.startswith((" ", "\n"), position) or (low[position] == "\n" and position == end):
        return None
    choice = read_choice(window, position, texts=False)
    if choice is None or choice.letter == AMBIGUOUS or cues.ANOTHER_LETTER.match(low, choice.end):
        return None  # "so (A), (B) and (D) are wrong"
    if refused(low, start, choice.end) or _is_list(window, choice):
        return None
    return Statement(choice.letter, choice.end)


def _it_is(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "It is C", or "Option C: it is the correct answer"."""
    return _after_lead(window, word, start, end) or _predicate(window, "is", end - 2, end)


def _made(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "Which makes C the correct answer." """
    choice = read_choice(window, end)
    if choice is None or not cues.MADE.match(window.low, choice.end) or refused(window.low, start, choice.end):
        return None
    return Statement(choice.letter, choice.end, choice.by_text)


def _predicate(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "Option C is the correct answer": the choice stands before the cue."""
    low = window.low
    predicate = cues.PREDICATE.match(low, start)
    if predicate is None:
        return None
    weak = not _STRONG.search(predicate.group())
    own = _own_text_before(window, start)
    if own:
        beside = _IN_APPOSITION.search(window.raw, max(0, start - own.end - 24), start)
        if beside and beside[1].upper() in window.choices.letters and beside[1].upper() != own.letter:
            return Statement(AMBIGUOUS, predicate.end())
        shown = window.choices.text_of(own.letter) if own.letter != AMBIGUOUS else ""
        found = low.rfind(shown[:12], max(0, start - own.end - 40), start) if shown else -1
        begin = found if found >= 0 else start - own.end
        label = _LABEL_BEFORE.search(low, max(0, begin - 12), begin + 4)
        begin = label.start() if label else begin
        return None if refused(low, begin, predicate.end()) else Statement(own.letter, predicate.end(), weak)
    before = low[max(0, start - SUBJECT) : start]
    if _NONE_OF.match(last_sentence(before, labels=False)):
        return Statement(AMBIGUOUS, predicate.end())
    begin = start - len(last_sentence(before, labels=True))
    subject = _subject(window, begin, start)
    if subject is None:  # "Not A. C is the correct answer": a stop after a letter that is no label
        begin = start - len(last_sentence(before, labels=False))
        subject = _subject(window, begin, start)
    if subject is None or refused(low, subject.end, predicate.end(), "would" in predicate.group()):
        return None
    shown = window.raw[begin:start]
    named = not _BY_LETTER.search(shown)
    verdict = _VERDICT.fullmatch(low, start - 1, predicate.end()) is not None
    return Statement(subject.letter, predicate.end(), named and weak, verdict)


def _subject(window: Text, begin: int, end: int) -> Choice | None:
    """The choice that a sentence from `begin` has as its subject before `end`; `Choice.end` is where it begins."""
    low, raw = window.low, window.raw
    lead = cues.LEAD_IN.match(low, begin, end)
    start = lead.end() if lead else begin
    letter = read_whole(raw[start:end], window.choices)
    if letter is None:
        subject = low[begin:end]
        comma = max(subject.rfind(", "), subject.rfind(": "))
        that = max(subject.rfind(" that "), subject.rfind(" think "), subject.rfind(" believe "))
        start = begin + (subject.index(" ", that + 1) + 1 if that > comma else comma + 2)
        if (
            start < begin + 2
            or low.count("(", start, end) != low.count(")", start, end)
            or _LETTERS_FIRST.match(subject)
        ):
            return None
        lead = cues.LEAD_IN.match(low, start, end)
        start = lead.end() if lead else start
        letter = read_whole(raw[start:end], window.choices)
    return None if letter is None else Choice(letter, start)


def _own_text_before(window: Text, end: int) -> Choice | None:
    """The option whose own text is the subject that ends at `end`: "Renal failure (acute) is the correct answer".

    `Choice.end` is about how many characters before `end` it begins.
    """
    choices = window.choices
    if not choices.longest:
        return None
    cased = plain(window.raw[max(0, end - choices.longest - 100) : end].rpartition("\n")[2])
    shown = cased.lower()
    fits = [text for text in choices.texts if not is_letter(text) and shown.endswith(text)]
    if not fits:
        return None
    own = max(fits, key=len)
    letter = choices.letter_of(cased[-len(own) :])
    return Choice(letter, len(own) + 1) if letter and _BEFORE_OWN.search(shown[: len(shown) - len(own)]) else None


@cache
def _label_of(letter: str) -> re.Pattern[str]:
    return re.compile(rf"[\s,;(*]{letter}[).:]\**\s*")


def _is_list(window: Text, choice: Choice) -> bool:
    """Whether the options themselves were listed after the cue ("choose the best answer: A. ... B. ...")."""
    letters = window.choices.letters
    if choice.by_text or choice.letter not in letters[:-1]:
        return False
    following = letters[letters.index(choice.letter) + 1]
    found = _label_of(following.lower()).search(window.low, choice.end, choice.end + 300)
    if found is None:
        return False
    own = window.choices.text_of(following)
    if not own:
        return choice.letter == letters[0]
    rest = window.low[found.end() : found.end() + len(own) + 8]
    return rest.startswith(own) and _ENTRY_END.match(rest, len(own)) is not None


_READERS = (  # by cue word; any other may be the verb of "C is the correct answer"
    dict.fromkeys(cues.NOUNS, _after_noun)
    | dict.fromkeys(cues.SUPERLATIVES, _after_superlative)
    | dict.fromkeys(cues.VERBS, _after_verb)
    | dict.fromkeys(cues.LEADS, _after_lead)
    | dict.fromkeys(cues.MAKES, _made)
    | dict.fromkeys(cues.EXCEPTIONS, _exception)
    | dict.fromkeys(("that", "which", "that is", "which is"), _relative)
    | {"except": _except, "it is": _it_is, "boxed": _box, "ans": _after_shortened, "选": _sure, "[": _brackets}
)
