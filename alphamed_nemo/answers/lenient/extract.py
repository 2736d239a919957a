"""A final answer however a model states it; the statement that the response ends on wins.

The response is searched from its end in windows that grow eightfold, so the usual response costs its last few hundred
characters and no response costs more than a small multiple of its length. docs/grading.md lists the wordings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from alphamed_nemo.answers.boxed import BOX, box_content
from alphamed_nemo.answers.lenient import cues
from alphamed_nemo.answers.lenient.endings import read_ending, read_opening
from alphamed_nemo.answers.lenient.reading import Choice, Text, read_choice
from alphamed_nemo.answers.options import AMBIGUOUS, Choices, is_letter, plain, read_whole

# Distances from the end: cue words are looked for up to the first, in a text that reaches back to the second.
STEPS = ((160, 900), (700, 900), (5_600, 6_000), (44_800, 45_200))
STRONG_REACH = 200  # characters; beyond the step after it, an answer that is only an option's text is believed
LONGEST_KEY = 16  # characters
MAX_CUES = 400  # cue words tried before giving up, so that a megabyte of "answer is" costs what a page does
LOOK_BACK = 160  # characters before a cue that can deny it
WEAK_TAIL = 200  # characters that may follow a statement that only names an option's text
_SENTENCE = re.compile(r"\n|[!?;]\s|(?<![\s(\[*][a-zA-Z])(?<!^[a-zA-Z])\.\s")
_SPECIAL = re.compile(r"<\|?/?[a-z_]{1,20}\|?>\s*$|\[/?[A-Z]{2,6}\]\s*$")
_COUNTER = re.compile(r"\b(?:but|however|although|though)\b")
_STRONG = re.compile(r"answer|option|correct|right|\bchoice$")
_BEFORE_OWN = re.compile(  # what may stand before an option's text that is the subject of its sentence
    r"(?:^|[.,:;!?(]\s?|\b(?:therefore|thus|hence|so|that|think|believe|the|an?|only|clearly|conclude)\s)$"
)
_IF = re.compile(r"\bif\b")
_ENTRY_END = re.compile(r"[ .,;)*]*(?:\n|$|\(?[a-z][).:])")
_OTHERWISE = re.compile(r"\b(?:if|otherwise|else)\b")


@dataclass(frozen=True, slots=True)
class Statement:
    """An answer (or AMBIGUOUS) stated up to `end` of its window; weak where only an option's text was named, without
    the word answer."""

    letter: str
    end: int
    weak: bool = False


def extract_lenient(text: str, choices: Choices) -> str | None:
    """Letter that `text` states last, None where it states none, or states it as several or as no option."""
    text = _without_special_tokens(text.rstrip())
    if not text:
        return None
    ending = read_ending(text, choices)
    if ending is not None:
        return None if ending == AMBIGUOUS else ending
    weak, tried, done, window = None, 0, 0, None
    for reach, size in (*STEPS, (len(text), len(text))):
        if window is None or len(window.raw) < min(size, len(text)):
            window = Text.of("\n" + text[-size:], choices)  # so that a word at its very beginning is one, too
        end = len(window.raw) - done
        start = max(0, len(window.raw) - reach)
        found = cues.KEY.finditer(window.low, max(0, start - 1), end + LONGEST_KEY)
        keys = [key for key in found if key.start(1) < end]
        statement, weak = _last_statement(window, keys[-MAX_CUES:], weak)
        if statement is not None:
            return None if statement.letter == AMBIGUOUS else statement.letter
        tried, done = tried + len(keys), reach
        if reach >= len(text) or tried > MAX_CUES or (weak and reach > STRONG_REACH):
            break
    return weak or read_opening(text, choices)


def _without_special_tokens(text: str) -> str:
    """`text` without end-of-turn tokens that a decoder left in."""
    for _ in range(3):
        if not text.endswith((">", "]")):
            break
        token = _SPECIAL.search(text, max(0, len(text) - 40))
        if token is None or token.group().strip() in ("</answer>", "<answer>"):
            break
        text = text[: token.start()].rstrip()
    return text


def _last_statement(window: Text, keys: list[re.Match], weak: str | None) -> tuple[Statement | None, str | None]:
    """The last statement among `keys`, and the last weak one where there is no other."""
    for key in reversed(keys):
        statement = _statement_at(window, key)
        if statement is None:
            continue
        tail = window.low[statement.end :]
        if cues.RETRACTION.search(tail):
            return Statement(AMBIGUOUS, statement.end), weak
        if not statement.weak:
            return statement, weak
        if weak is None and len(tail) <= WEAK_TAIL and not _COUNTER.search(tail) and statement.letter != AMBIGUOUS:
            weak = statement.letter
    return None, weak


def _statement_at(window: Text, key: re.Match) -> Statement | None:
    """What the cue word `key` states, if it opens a statement at all."""
    return _READERS.get(key[1], _predicate)(window, key[1], *key.span(1))


def _box(window: Text, word: str, start: int, end: int) -> Statement | None:
    if window.raw[start - 1] != "\\":
        return None
    content = box_content(window.raw, end - len(BOX))
    letter = read_whole(content, window.choices) if content else None
    return Statement(letter, start + len(content)) if content and letter else None


def _brackets(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "[[C]]", the form that judges are asked for."""
    choice = read_choice(window, start)
    if choice is None or window.low[choice.end - 2 : choice.end] != "]]":
        return None
    return Statement(choice.letter, choice.end)


def _after_noun(window: Text, word: str, start: int, end: int) -> Statement | None:
    link = cues.LINK.match(window.low, end)
    if link is None:
        return _bare_noun(window, start, end) if word == "answer" else None
    if link.group()[-1] == "\n" and not cues.HEADING.search(window.low, max(0, start - 40), start):
        return None
    colon = link.group()[-1] in ":=\n>"
    choice = read_choice(window, link.end(), colon)
    if choice is None or _guarded(window.low, start, "would" in link.group(), choice.end) or _is_list(window, choice):
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
    return Statement(choice.letter, choice.end) if choice and not _is_list(window, choice) else None


def _bare_noun(window: Text, start: int, end: int) -> Statement | None:
    """ "Answer C" at the start of a line, or "final answer (C)": no verb, no colon."""
    low = window.low
    if not low.startswith(" ", end):
        return None
    before = low[max(0, start - 12) : start]
    if not before.endswith(("\n", "\n**", "final ", "correct ", "best ", "i'd ", "i would ")):
        return None
    choice = read_choice(window, end)
    if choice is None or choice.by_text or _guarded(low, start, False, choice.end):
        return None
    return Statement(choice.letter, choice.end)


def _after_superlative(window: Text, word: str, start: int, end: int) -> Statement | None:
    phrase = cues.SUPERLATIVE.match(window.low, start)
    if phrase is None or "common" in phrase["noun"]:
        return None
    choice = read_choice(window, phrase.end(), phrase.group().endswith(":"))
    if choice is None or _guarded(window.low, start, "would" in phrase.group(), choice.end) or _is_list(window, choice):
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
    if choice is None or _guarded(low, start, False, choice.end) or _is_list(window, choice):
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
    if choice is None or choice.letter == AMBIGUOUS:
        return None
    if _guarded(low, start, False, choice.end) or _is_list(window, choice):
        return None
    return Statement(choice.letter, choice.end)


def _it_is(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "It is C", or "Option C: it is the correct answer"."""
    return _after_lead(window, word, start, end) or _predicate(window, "is", end - 2, end)


def _made(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "Which makes C the correct answer." """
    choice = read_choice(window, end)
    if choice is None or not cues.MADE.match(window.low, choice.end) or _guarded(window.low, start, False, choice.end):
        return None
    return Statement(choice.letter, choice.end, choice.by_text)


def _predicate(window: Text, word: str, start: int, end: int) -> Statement | None:
    """ "Option C is the correct answer": the choice stands before the cue."""
    low = window.low
    predicate = cues.PREDICATE.match(low, start)
    if predicate is None:
        return None
    named = _own_text_before(window, start)
    if named:
        return Statement(named, predicate.end(), not _STRONG.search(predicate.group()))
    begin = max(0, start - 240)
    for boundary in _SENTENCE.finditer(low, begin, start):
        begin = boundary.end()
    subject = window.raw[begin:start]
    lead = cues.LEAD_IN.match(low, begin, start)
    letter = read_whole(window.raw[lead.end() : start] if lead else subject, window.choices)
    if letter is None:
        comma = max(subject.rfind(", "), subject.rfind(": "), subject.rfind(" that "))
        comma += 5 if subject.startswith(" that ", comma) else 2
        lead = cues.LEAD_IN.match(subject.lower(), comma)
        letter = read_whole(subject[lead.end() if lead else comma :], window.choices) if comma > 2 else None
    if letter is None:
        return None
    named = not re.search(r"\b[A-Za-z][)\].:*]*\s*$|\b(?:option|choice|answer)\b", subject)
    return Statement(letter, predicate.end(), named and not _STRONG.search(predicate.group()))


def _own_text_before(window: Text, end: int) -> str | None:
    """The option whose own text is the subject that ends at `end`: "Renal failure (acute) is the correct answer"."""
    choices = window.choices
    if not choices.longest:
        return None
    cased = plain(window.raw[max(0, end - choices.longest - 100) : end].rpartition("\n")[2])
    shown = cased.lower()
    fits = [text for text in choices.texts if not is_letter(text) and shown.endswith(text)]
    if not fits:
        return None
    own = max(fits, key=len)
    return choices.letter_of(cased[-len(own) :]) if _BEFORE_OWN.search(shown[: len(shown) - len(own)]) else None


def _guarded(low: str, start: int, would: bool, end: int) -> bool:
    """Whether the clause before the cue makes the statement a question, a supposition, a denial or somebody else's."""
    before = low[max(0, start - LOOK_BACK) : start]
    clause = before[max(map(before.rfind, ".!?\n;:,")) + 1 :]
    clause = cues.CONJUNCTION.split(clause)[-1]
    if cues.GUARD_ADJACENT.search(clause) or cues.GUARD.search(clause):
        return True
    if "if " not in before:
        return False
    sentence = before[max(map(before.rfind, (". ", "! ", "? ", "\n"))) + 1 :]
    conditions = len(_IF.findall(sentence))
    return conditions > 0 and (would or conditions > 1 or _OTHERWISE.search(low, end, end + 120) is not None)


def _is_list(window: Text, choice: Choice) -> bool:
    """Whether the options themselves were listed after the cue ("choose the best answer: A. ... B. ...")."""
    letters = window.choices.letters
    if choice.by_text or choice.letter not in letters[:-1]:
        return False
    following = letters[letters.index(choice.letter) + 1]
    label = re.compile(rf"[\s,;(*]{following.lower()}[).:]\**\s*")
    found = label.search(window.low, choice.end, choice.end + 300)
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
    | {"it is": _it_is, "boxed": _box, "ans": _after_shortened, "选": _sure, "[": _brackets}
)
