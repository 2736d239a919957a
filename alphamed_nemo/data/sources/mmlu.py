"""MMLU's six medical subjects (Hendrycks et al., 2020, arXiv 2009.03300): 1,089 test questions, four options.

The hub's `cais/mmlu` (subset `all`) has `choices`, and `answer` as a class label that counts from 0. MIRAGE's MMLU-Med
is of these subjects.
"""

from __future__ import annotations

from alphamed_nemo.data.sources.columns import ColumnLoader
from alphamed_nemo.data.sources.rows import HubSet

SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)


class MMLU(ColumnLoader):
    hub = HubSet("cais/mmlu", subset="all", train_split="auxiliary_train")
    required = ("question", "choices", "answer", "subject")
    where = {"subject": SUBJECTS}
    options = "choices"
    number = "answer"
    kept = {"subject": "subject"}
