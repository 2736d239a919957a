"""MedCalc-Bench (Khandekar et al., 2024, arXiv 2406.12036): 1,100 test questions that ask for a clinical value.

A row has the patient's note, the question, the value, and limits within which a decimal number is right (95 and
105 %). Which rule applies follows from the calculator: 13 and 68 are dates, 69 an age in weeks and days, others whole
or decimal numbers by `Output Type`. MedCalc-Bench Verified (`hub: nsk7153/MedCalc-Bench-Verified`) has the same
columns. For evaluation only: a training set sets every row aside.
"""

from __future__ import annotations

from dataclasses import replace

from alphamed_nemo.data.cells import Unusable, text
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.sources.base import Loader, content_hash
from alphamed_nemo.data.sources.rows import HubSet
from alphamed_nemo.data.value import Kind

BY_CALCULATOR: dict[str, Kind] = {"13": "date", "68": "date", "69": "weeks"}
BY_OUTPUT: dict[str, Kind] = {"decimal": "decimal", "integer": "integer"}


class MedCalc(Loader):
    hub = HubSet("ncbi/MedCalc-Bench-v1.2")
    required = ("Calculator ID", "Output Type", "Patient Note", "Question", "Ground Truth Answer")

    def question(self, row: dict) -> Question:
        calculator = text(row["Calculator ID"], "Calculator ID").removesuffix(".0")
        output = text(row["Output Type"], "Output Type")
        kind = BY_CALCULATOR.get(calculator) or BY_OUTPUT.get(output)
        if kind is None:
            raise Unusable("unknown kind of value", f"Output Type {output!r} of calculator {calculator}")
        stem, note = text(row["Question"], "Question"), text(row["Patient Note"], "Patient Note")
        answer = text(row["Ground Truth Answer"], "Ground Truth Answer")
        if not answer:
            raise Unusable("no answer")
        value = {"kind": kind}
        if kind == "decimal":
            value |= {"low": text(row.get("Lower Limit")), "high": text(row.get("Upper Limit"))}
        number = text(row.get("Row Number"), "Row Number").removesuffix(".0")
        id = f"{self.name}-{number or content_hash(stem, note, answer)}"
        kept = {"calculator": text(row.get("Calculator Name")), "category": text(row.get("Category"))}
        try:
            asked = Question(id, self.name, stem, (), answer, note, metadata={"value": value})
        except ValueError as error:
            raise Unusable("unreadable value", str(error)) from error
        return replace(asked, metadata=asked.metadata | {name: shown for name, shown in kept.items() if shown})
