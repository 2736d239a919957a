"""Medbullets (Chen et al., 2024, arXiv 2402.18060): 308 questions in the style of USMLE steps 2 and 3.

The authors' `medbullets_op4.csv` and `medbullets_op5.csv` have a column for each option, the letter in `answer_idx` and
the text in `answer`; their JSON files turn columns into objects and are not read. The hub's `mkieffer/Medbullets` has
the splits `op4_test` and `op5_test`, options as {A: …} with an empty E in the first, and the letter in `answer`.
"""

from __future__ import annotations

from alphamed_nemo.config.sources import SourceConfig
from alphamed_nemo.data.sources.columns import ColumnLoader
from alphamed_nemo.data.sources.rows import HubSet, Rows


class Medbullets(ColumnLoader):
    hub = HubSet("mkieffer/Medbullets", train_split="op4_test", evaluation_split="op4_test")

    def __init__(self, name: str, source: SourceConfig, rows: Rows) -> None:
        if "answer_idx" in rows.rows[0]:
            self.options, self.letter, self.answer_text = ("opa", "opb", "opc", "opd", "ope"), "answer_idx", "answer"
            self.required = ("question", "opa", "opb", "opc", "opd")
        else:
            self.letter, self.required = "answer", ("question", "options")
        super().__init__(name, source, rows)
