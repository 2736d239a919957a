"""What keeps a statement from being the answer: it is asked, supposed, denied, doubted, or somebody else's."""

from __future__ import annotations

import re

LOOK_BACK = 200  # characters before a statement that can take it back

# The end of a sentence, read backwards from a statement: the search ends at the first. A sentence also ends before a
# closing mark, a tag, or the next string of a JSON object.
_ENDS = (
    r"""\n|[\s<](?=[!?。;]|\.{stop})|["')\]}}*_`]{{1,4}}(?=[.!?。])|>[a-z_]{{1,20}}/?<|["']\s{{0,3}},\s{{0,2}}["']"""
)
_SENTENCE_END = re.compile(_ENDS.format(stop=""))
_UNLABELLED_END = re.compile(_ENDS.format(stop=r"""(?![a-j](?:[\s(\[*"']|$))"""))  # not after the C of "C. Ibuprofen"
_CONJUNCTION = re.compile(r"(?<![a-z])(?:but|so|therefore|however|hence|thus|because|yet|and)(?![a-z])")
_CONCEDING = ("while ", "although ", "though ", "even though ", "despite ", "whereas ", "unlike ")
_CERTAIN = re.compile(
    r"\b(?:(?:no|without(?: a| any)?|beyond(?: a| any)?(?: reasonable)?) (?:doubt|question)|undoubtedly|not only"
    r"|(?:can|could)(?:not| not|n't) be (?:anything|any) (?:other|else)|there is nothing (?:wrong|incorrect))\b"
)
_CLAUSE = re.compile(
    r"\b(?:if|whether|unless|suppos(?:e|ing)|assum(?:e|ing)|imagine|pretend\w*|hypothetical\w*|not|never|unsure"
    r"|uncertain|could|might|may|cannot|can't|tempt\w*|doubt\w*|skeptical|sceptical|unlikely|improbable|hardly|scarcely"
    r"|(?:do|did|does|wo|would|could|should|is|was|are|were|ca)n't|how|what (?:is|'s|would|could|should)|wrong\w*"
    r"|incorrect\w*|false\w*|untrue|mistake\w*|erroneous\w*|avoid\w*|refus\w+|disagree\w*|den(?:y|ies|ied)"
    r"|reject\w*|refut\w+|instead of|rather than|students|people|others|clinicians|examinees|test-takers|let me"
    r"|let's say|let us say|asked to|used to (?:think|believe|say)|i (?:\w+ )?thought|unable to"
    r"|hesita\w+|reluctan\w+|by no means|far from"
    r"|nothing (?:suggests|indicates|shows|proves|supports)|hard to|difficult to|possibly|perhaps|maybe"
    r"|everyone|someone|nobody|no one|anyone|no (?:reason|evidence|way|guarantee)"
    r"|would (?:think|say|argue|assume|suggest|guess)"
    r"|(?:is|been|often|commonly|widely|sometimes|frequently) (?:claimed|believed|thought|assumed|said|argued|taught"
    r"|suggested|supposed|alleged))\b(?=\s)|n't\b"
)
_ADJACENT = re.compile(
    r"(?<![a-z])(?:incorrect|wrong|false|previous|initial|another|alternative|possible|no|every|each|other|common|popular"
    r"|your|their|his|her|tempting|distractor)\s+(?:most\s+)?$"
)
_SAY = (
    r"(?:think|thinks|thought|thinking|believes?d?|believing|says?|said|claim\w*|argu\w+|assum\w+|guess\w*|choos\w+"
    r"|chose|pick\w*|select\w*|answer(?:s|ed|ing)?|maintain\w*|insist\w*|conclude[sd]?|opt(?:s|ed)? for"
    r"|go(?:es)? (?:with|for)|votes?d? for|prefers?|favou?rs?|suggest\w*|propos\w+|suspect\w*"
    r"|mark(?:s|ed)?|told me|tells? us)"
)
_PERSON = (
    r"(?:students?|people|others|clinicians?|physicians?|doctors?|residents?|interns?|nurses?|examinees?|candidates?"
    r"|test[- ]takers?|colleagues?|friends?|classmates?|teachers?|tutors?|professors?|authors?|textbooks?|sources"
    r"|critics|users?|everyone|everybody|someone|somebody|they|he|she|chatgpt|ai|chatbots?|laypeople|beginners|novices"
    rf"|(?:many|most|some|few|several|half)(?= (?:(?:would|will|might|may|could|still|often|also|wrongly|mistakenly"
    rf"|incorrectly|of (?:them|us|my \w+)) )?{_SAY}\b))"
)
_OTHER_WORD = (
    r"(?!\b(?:i|we|you|so|therefore|thus|hence|but|because|then|which|and|is|has|had|with|presents)\b)[^.!?;\n]"
)
_UP_TO = r"(?:[\s,:\"'(]|that|the|their|a|an|correct|right|best|final|true|most|likely|single|only|it's|it is|for)*$"
_SAID = re.compile(rf"\b{_PERSON}\b[^.!?;\n]{{0,60}}?\b{_SAY}\b")
_ATTRIBUTED = re.compile(
    rf"\b{_PERSON}\b(?:{_OTHER_WORD}){{0,60}}?\b{_SAY}\b{_UP_TO}"
    rf"|\b(?:according to|in the (?:opinion|view|eyes) of|for|per)\s(?:{_OTHER_WORD}){{0,40}}?\b{_PERSON}\b"
    rf"(?:{_OTHER_WORD}){{0,40}}?,\s?{_UP_TO}"
)
_CHOSEN_BY = re.compile(rf"\b{_PERSON}\b(?:(?!\b(?:should|must|to)\b){_OTHER_WORD}){{0,40}}$")
_DISBELIEVED = re.compile(
    r"\b(?:not|never|hardly|nobody|no one|doubt\w*|disagree\w*|den(?:y|ies)|reject\w*|refut\w+|unlikely|false|untrue"
    r"|incorrect|wrong|skeptical|sceptical|unconvinced|unclear|unsure|uncertain)\b"
    r"(?:(?!\b(?:i|we|so|but|and|therefore|thus|hence|which|means?|because|however|indicat\w+|suggest\w+|impl\w+)\b)"
    rf"[^.!?;\n]){{0,80}}?\b(?:that|whether|believe|think|say|claim|convinced|sure|certain)\b{_UP_TO}"
)
_IF = re.compile(r"(?<!even )(?<!as )\bif\b|^\W*(?:unless|suppos(?:e|ing)|assuming|provided|imagine)\b")
_IF_FIRST = re.compile(
    r"(?:\W|\b(?:however|but|so|then|now|and|also|only|conversely|alternatively|in contrast|on the other hand"
    r"|for example|for instance)\b)*(?:if|unless|suppos(?:e|ing)|assuming|provided|imagine|had|were|should)\b"
    r"(?!\s(?:i|we|you|one|asked|forced|pressed|anything|so)\b)"
)
_IN_ANOTHER = re.compile(
    r"\W*(?:in|for|with|among) (?!th(?:is|ese|e)\b|our\b|summary|conclusion|short|my\b|view|light|fact)"
)
_CONCLUDED = re.compile(r"\b(?:so|therefore|thus|hence|but|however|consequently|because)\b")
_OTHERWISE = re.compile(r"\b(?:if|otherwise|else)\b")
_TAKEN_BACK = re.compile(
    r"(?:[,(—–-]\s?|\s)(?:"
    rf"(?:or so |at least )?(?:according to|in the (?:opinion|view|eyes) of|say|think)\s.{{0,30}}?\b{_PERSON}\b"
    rf"|(?:or so|as) .{{0,30}}?\b{_PERSON}\b.{{0,20}}?\b{_SAY}\b"
    rf"|{_PERSON} (?:say|think|claim|believe|argue|would say)\b"
    r"|(?:but|although|though|which|and) (?:that|this|it)?\s?(?:is|was|would be|isn't|wasn't|'s)?\s?"
    r"(?:not (?:the )?(?:correct|right|true|so)|wrong|incorrect|false|mistaken|n't (?:correct|right))"
    r"|(?:but )?i (?:strongly )?(?:doubt|disagree|don't (?:think|believe|agree))"
    r")|^[\s)*]{0,3}(?:is|was) (?:wrong|incorrect|false|a mistake|not (?:correct|right|true))\b"
)
_OPPOSED = ("according", "opinion", "view", "eyes", "say", "think", "claim", "believe", "argue", "doubt", "agree")
_OPPOSED += ("wrong", "incorrect", "false", "mistake", " not ", "n't", "students", "people", "many", "most", "some")
_MAYBE = re.compile(r"[\s,)*]{1,4}(?:perhaps|maybe|possibly|or not)\b(?! answer)")
_UNFINISHED = re.compile(r"[\s)*]{0,4}(?:,|/|&|\+|\band|\bor|\band/or|\bvs\.?)\s*$")
_STOP = re.compile(r"[.!?\n]")


_PLAIN_BEGINNINGS = frozenset(
    (
        "",
        "the",
        "the correct",
        "the final",
        "so the",
        "so, the",
        "thus, the",
        "therefore, the",
        "therefore, the correct",
    )
    + ("final", "my", "so", "the best", "the most appropriate", "the right", "correct", "{", "the answer is", "answer:")
    + ("the final answer is", "the correct answer is", "therefore, the correct answer is", "the final answer is: $")
)


def refused(low: str, start: int, end: int, would: bool = False, chosen: bool = False) -> bool:
    """Whether the sentence around a statement takes it back.

    Args:
        low: the text in lower case.
        start: where the statement begins: its cue word, or the option that it says something of.
        end: where it ends.
        would: its verb is "would be", which after a condition states nothing.
        chosen: it begins with a verb of choosing, whose subject may be somebody else.
    """
    sentence = last_sentence(low[max(0, start - LOOK_BACK) : start], labels=False)
    plain = sentence.strip(" *\"'(_") in _PLAIN_BEGINNINGS
    if not plain and _taken_before(sentence, low, end, would, chosen):
        return True
    stop = _STOP.search(low, end, end + 100)
    if stop is not None and stop.group() == "?":
        return True
    after = low[end : stop.start() if stop else end + 100]
    if len(after) < 4:
        return False
    return _MAYBE.match(after) is not None or (
        any(word in after for word in _OPPOSED) and bool(_TAKEN_BACK.search(after))
    )


def last_sentence(before: str, labels: bool) -> str:
    """What `before` holds of the sentence that goes on after it.

    Args:
        before: text in lower case.
        labels: a stop after a single letter ends no sentence ("C. Ibuprofen").
    """
    found = (_UNLABELLED_END if labels else _SENTENCE_END).search(before[::-1])
    return before[len(before) - found.start() :] if found else before


def _taken_before(sentence: str, low: str, end: int, would: bool, chosen: bool) -> bool:
    if "doubt" in sentence or "not" in sentence or "question" in sentence or "nothing" in sentence:
        sentence = _CERTAIN.sub(" ", sentence)
    clause = _CONJUNCTION.split(sentence[max(map(sentence.rfind, ":,")) + 1 :])[-1]
    if _ADJACENT.search(clause) or _CLAUSE.search(clause):
        return True
    if (
        sentence.lstrip(" *\"'(").startswith(_CONCEDING) and "," in sentence
    ):  # "While most would choose A, the answer is C"
        sentence = clause
    if _ATTRIBUTED.search(sentence) or _DISBELIEVED.search(sentence) or (chosen and _CHOSEN_BY.search(sentence)):
        return True
    if would and _IN_ANOTHER.match(sentence) and not _CONCLUDED.search(sentence):
        return True
    conditions = [found.end() for found in _IF.finditer(sentence)]
    first = _IF_FIRST.match(sentence)
    if not conditions and not (first and would):
        return False
    since = sentence[conditions[-1] if conditions else 0 :]
    if not _CONCLUDED.search(since) and (first or len(conditions) > 1):
        return True
    return would or _OTHERWISE.search(low, end, end + 120) is not None


def said_by_others(sentence: str) -> bool:
    """Whether somebody else says something in a sentence in lower case."""
    return _SAID.search(sentence) is not None


def doubtful(sentence: str) -> bool:
    """Whether anything in a whole sentence, in lower case, is doubt, a condition or somebody else's opinion."""
    return any(pattern.search(sentence) for pattern in (_CLAUSE, _SAID, _IF))


def unfinished(low: str, end: int) -> bool:
    """Whether the text breaks off after a choice where another is to follow ("A, B or")."""
    return _UNFINISHED.match(low, end) is not None
