"""Graduate questions with many options: SuperGPQA's medicine, and M-ARC.

SuperGPQA (arXiv 2502.14739) has 2,755 questions of the discipline Medicine, up to ten options, the key both as a letter
and as a text, and a difficulty: easy 909, middle 1,629, hard 217. Medmarks counts easy and hard.

M-ARC (arXiv 2502.04381) has 100 questions made to mislead by habit, options A to G. The hub's `mkieffer/M-ARC` leaves
letters empty that a question does not use.
"""

from __future__ import annotations

from alphamed_nemo.data.sources.columns import ColumnLoader
from alphamed_nemo.data.sources.rows import HubSet


class SuperGPQA(ColumnLoader):
    hub = HubSet("m-a-p/SuperGPQA", evaluation_split="train")
    required = ("question", "options", "answer_letter", "discipline")
    where = {"discipline": ("Medicine",)}
    letter = "answer_letter"
    answer_text = "answer"
    id = "uuid"
    kept = {"field": "field", "subfield": "subfield", "difficulty": "difficulty"}


class MARC(ColumnLoader):
    hub = HubSet("mkieffer/M-ARC", train_split="test")
    required = ("question", "options", "answer")
    letter = "answer"
