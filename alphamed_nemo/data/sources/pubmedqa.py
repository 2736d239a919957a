"""PubMedQA (Jin et al., 2019, arXiv 1909.06146): is the title's question answered yes, no or maybe by the abstract?

The authors' files (`ori_pqal.json`, `ori_pqaa.json`) are one JSON object keyed by PMID, with upper-case columns; the
hub's `qiaojin/PubMedQA` has a `pubid` column, lower-case columns and the paragraphs nested in `context.contexts`.
PQA-L is the labelled thousand that is evaluated on; PQA-A (`subset=pqa_artificial`) has 211,000 questions to train on.
"""

from __future__ import annotations

from alphamed_nemo.config.sources import SourceConfig
from alphamed_nemo.data.answer_key import letter_of
from alphamed_nemo.data.cells import Unusable, paragraphs_of, text
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.sources.base import Loader
from alphamed_nemo.data.sources.rows import HubSet, Rows
from alphamed_nemo.data.text_files import parse_json

OPTIONS = ("yes", "no", "maybe")


class PubMedQA(Loader):
    hub = HubSet("qiaojin/PubMedQA", subset="pqa_labeled", evaluation_split="train")

    def __init__(self, name: str, source: SourceConfig, rows: Rows) -> None:
        self.authors = "QUESTION" in rows.rows[0]
        self.required = ("QUESTION", "CONTEXTS") if self.authors else ("question", "context")
        super().__init__(name, source, rows)

    def question(self, row: dict) -> Question:
        if self.authors:
            stem, paragraphs, pmid, year = row["QUESTION"], row["CONTEXTS"], row.get("_key"), row.get("YEAR")
        else:
            stem, paragraphs, pmid, year = row["question"], _nested(row["context"]), row.get("pubid"), None
        answer = letter_of(text(row.get("final_decision"), "final_decision").lower(), OPTIONS)
        context = paragraphs_of(paragraphs, "contexts") if self.source.contexts else ""
        if self.source.contexts and not context.strip():
            raise Unusable("no context", "set contexts: false for the form without abstracts")
        return self.build(stem, OPTIONS, answer, id=pmid, context=context, year=year)


def _nested(context: object) -> object:
    """The hub's {"contexts": […], "labels": …}, also as the JSON text that a CSV file holds."""
    if isinstance(context, str) and context.lstrip().startswith("{"):
        try:
            return parse_json(context)
        except ValueError:
            pass
    return context
