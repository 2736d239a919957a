r"""The rule beside the letters: which value a response states, for questions that ask for one.

As with letters, what can be read in two ways is none. `boxed` reads the last `\boxed{}`; the other protocols also read,
where there is no box, what follows the last "answer is" or "answer:" on its line. What is read must hold exactly one
value: units, TeX and thousands separators are taken away, "3 out of 5" and "3/5 points" state 3. The authors of
MedCalc-Bench take the last of several numbers; here "between 20 and 25" states none.
"""

from __future__ import annotations

import re

from alphamed_nemo.answers.boxed import BOX, box_content
from alphamed_nemo.data.value import Kind, date_of, weeks_of

CUE = re.compile(r"answer\W{0,12}(?:is\b|[:=])", re.IGNORECASE)
TEX_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|bm)\s*\{([^{}]*)\}")
TEN_POWER = re.compile(r"\s*(?:×|\\times|\*)\s*10\s*\^\s*(?:\{\s*([-+]?\d+)\s*\}|([-+]?\d+))")
# Units with digits of their own: per 1.73 m², kg/m^2, x 10^9/L is read by TEN_POWER.
UNIT_DIGITS = re.compile(r"(?:/\s*)?1\.73\s*(?:m\s*(?:\^\s*\{?2\}?|²|2))?|(?<=[A-Za-z])\s*(?:\^\s*\{?[-+]?\d\}?|[²³])")
OUT_OF = re.compile(r"(?<=\d)\s*(?:out of|/)\s*\d+(?=\s*(?:points?)?\W*$)", re.IGNORECASE)
THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))")
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?!\.?\d)")
CLAUSE = re.compile(r"[.;]\s|,\s(?=[A-Za-z])")  # where the statement after a cue ends
EQUALS = re.compile(r"[=≈]|\\approx")


def extract_value(text: str, kind: Kind, protocol: str) -> str | None:
    """The value that `text` states: a number (with % where it has one), a date, or "(weeks, days)"; None for no one.

    Args:
        text: the response.
        kind: of the value that is asked for.
        protocol: boxed, or any other of docs/grading.md.
    """
    said = _said(text, protocol)
    if said is None:
        return None
    said = TEX_TEXT.sub(r"\1", said).replace("\\%", "%").replace("$", "").strip()
    said = EQUALS.split(said)[-1]
    if kind == "date":
        found = date_of(said)
        return None if found is None else f"{found.month:02}/{found.day:02}/{found.year}"
    if kind == "weeks":
        pair = weeks_of(said)
        return None if pair is None else f"({pair[0]}, {pair[1]})"
    return _number(said)


def _said(text: str, protocol: str) -> str | None:
    start = text.rfind(BOX)
    if start >= 0:
        return box_content(text, start)
    cues = [] if protocol == "boxed" else list(CUE.finditer(text))
    return CLAUSE.split(text[cues[-1].end() :].partition("\n")[0])[0] if cues else None


def _number(said: str) -> str | None:
    said = TEN_POWER.sub(lambda power: f"e{power[1] or power[2]}", said)
    said = OUT_OF.sub("", UNIT_DIGITS.sub("", THOUSANDS.sub("", said)).strip())
    found = list(NUMBER.finditer(said))
    if len(found) != 1:
        return None
    percent = "%" if said[found[0].end() :].lstrip().startswith("%") else ""
    return found[0].group().replace("−", "-").lstrip("+") + percent
