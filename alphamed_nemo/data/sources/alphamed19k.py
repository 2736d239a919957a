"""AlphaMed19K (Liu et al., 2025, arXiv 2505.17952): the 19,178 questions that the paper's models were trained on.

Columns `question` (with the options in the text), `answer` (a letter) and `subset_name`. The options are read from
the end of the text: one a line, or one after another on a line, with the same marks throughout ("A: ", "A. ", "A) "
or "(A) "), the letters running from A without a gap. A text that does not read so is set aside.
"""

from __future__ import annotations

import re

from alphamed_nemo.data.cells import Unusable, text
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.data.sources.base import Loader
from alphamed_nemo.data.sources.rows import HubSet

MARKS = (r"{}\s*:\s", r"{}\.\s", r"{}\)\s", r"\({}\)\s")
LINE_START = r"(?:^|\n)[ \t]*"
ANYWHERE = r"(?:^|(?<=\s))"
INLINE_OPTIONS = 4  # of MedQA and MedMCQA; other runs of marks may be prose ("vitamin A. Vitamin B. …", "E. coli")
INSTRUCTION = re.compile(r"\s*(?:please\s+)?(?:reason|think) step[- ]by[- ]step[^\n]*\\boxed\{[^\n]*$", re.IGNORECASE)
HEADING = re.compile(r"(?:\s*\n\s*|(?<=[?.!:])\s+)(?:answer\s+)?(?:options|choices)\s*:\s*$", re.IGNORECASE)


class AlphaMed19K(Loader):
    hub = HubSet("che111/AlphaMed19K", evaluation_split="train")
    required = ("question", "answer")

    def question(self, row: dict) -> Question:
        stem, options = split_options(text(row["question"]))
        return self.build(stem, options, text(row["answer"]), subset=row.get("subset_name"))


def split_options(question: str) -> tuple[str, list[str]]:
    """Stem and options of a text that ends in lettered options.

    Raises:
        Unusable: no options are found, or they can be read in two ways.
    """
    question = INSTRUCTION.sub("", question)
    for start, allowed in ((LINE_START, range(2, len(LETTERS) + 1)), (ANYWHERE, (INLINE_OPTIONS,))):
        runs = [run for mark in MARKS if len(run := _longest_run(question, start, mark)) in allowed]
        if len(runs) > 1:
            raise Unusable("options can be read in two ways", question[-200:])
        if runs:
            run = runs[0]
            ends = [begin for begin, _ in run[1:]] + [len(question)]
            options = [question[after:end].strip() for (_, after), end in zip(run, ends, strict=True)]
            return HEADING.sub("", question[: run[0][0]]).strip(), options
    raise Unusable("options not found in the text", question[-200:])


def _longest_run(question: str, start: str, mark: str) -> list[tuple[int, int]]:
    """(begin, end) of the marks A, B, C, … in their order; of several runs the longest, of equal ones the last."""
    question += "\n"  # so that a mark without a text after it is seen, and its empty option refused
    best: list[tuple[int, int]] = []
    for first in reversed(list(re.finditer(start + mark.format("A"), question))):
        run = [first.span()]
        for letter in LETTERS[1:]:
            following = re.compile(start + mark.format(letter)).search(question, run[-1][1] - 1)
            if following is None:
                break
            run.append(following.span())
        best = max(best, run, key=len)
    return best
