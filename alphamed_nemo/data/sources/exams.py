"""Other multiple-choice sets of Medmarks (arXiv 2605.01417): their columns are those that its environments read.

CareQA (`HPAI-BSC/CareQA`, subset CareQA_en)                columns op1 to op4, `cop` counts from 1
HEAD-QA v2 (`alesi12/head_qa_v2`, subset en)                 `answers` as [{aid, atext}], `ra` counts from 1
MedConceptsQA (`sameedkhan/medconceptsqa-sample_medarc_15k`)  Medmarks' sample; the options are in the question too
MetaMedQA (`maximegmd/MetaMedQA`)                            options by letter, the answer as a text
PubHealthBench (`Joshua-Harris/PubHealthBench`, reviewed)     a list of options, `answer_index` counts from 0
Med-HALT (`openlifescienceai/Med-HALT`, reasoning_nota)       options by number as Python prints a dict
"""

from __future__ import annotations

import ast
import re

from alphamed_nemo.data.cells import Unusable, options_of, text
from alphamed_nemo.data.question import LETTERS
from alphamed_nemo.data.sources.columns import ColumnLoader
from alphamed_nemo.data.sources.rows import HubSet


class CareQA(ColumnLoader):
    hub = HubSet("HPAI-BSC/CareQA", subset="CareQA_en", train_split="test")
    options = ("op1", "op2", "op3", "op4")
    required = ("question", *options, "cop")
    number = "cop"
    base = 1
    kept = {"category": "category"}


class HeadQA(ColumnLoader):
    hub = HubSet("alesi12/head_qa_v2", subset="en", evaluation_split="train")
    required = ("qtext", "answers", "ra")
    stem = "qtext"
    number = "ra"
    base = 1
    kept = {"category": "category"}

    def options_of_row(self, row: dict) -> tuple[str, ...]:
        try:
            pairs = [{"id": answer["aid"], "text": answer["atext"]} for answer in row["answers"]]
        except (KeyError, TypeError):
            raise Unusable("unreadable options", "expected a list of {aid, atext}") from None
        return options_of(pairs).texts


class MedConceptsQA(ColumnLoader):
    hub = HubSet("sameedkhan/medconceptsqa-sample_medarc_15k", subset="icd10cm_easy", train_split="dev")
    options = ("option1", "option2", "option3", "option4")
    required = ("question", *options, "answer_id")
    letter = "answer_id"
    kept = {"vocabulary": "vocab", "difficulty": "level"}

    def stem_of_row(self, row: dict, options: tuple[str, ...]) -> str:
        """The question without the lines that repeat its options."""
        repeated = {_words(f"{letter} {option}") for letter, option in zip(LETTERS, options, strict=False)}
        lines = text(row["question"], "question").splitlines()
        return "\n".join(line for line in lines if _words(line) not in repeated).strip()


def _words(line: str) -> str:
    return " ".join(re.findall(r"\w+", line))


class MetaMedQA(ColumnLoader):
    hub = HubSet("maximegmd/MetaMedQA", train_split="test")
    required = ("question", "options", "answer")
    answer_text = "answer"


class PubHealthBench(ColumnLoader):
    hub = HubSet("Joshua-Harris/PubHealthBench", train_split="validation", evaluation_split="reviewed")
    required = ("question", "options", "answer_index")
    number = "answer_index"
    id = "question_id"
    kept = {"category": "category"}


class MedHALT(ColumnLoader):
    """The None-of-the-Above Test: the right option of an exam question was replaced by "None of the above".

    One split holds all rows; `split_type` says which of them are for training, validation and test.
    """

    hub = HubSet("openlifescienceai/Med-HALT", subset="reasoning_nota", evaluation_split="train")
    required = ("question", "options", "split_type")
    number = "correct_index"
    answer_text = "correct_answer"
    id = "id"
    kept = {"subject": "subject_name"}

    def options_of_row(self, row: dict) -> tuple[str, ...]:
        """The options without the entry that repeats the right one."""
        try:
            entries = ast.literal_eval(row["options"]) if isinstance(row["options"], str) else dict(row["options"])
            return options_of({key: option for key, option in entries.items() if key != "correct answer"}).texts
        except (ValueError, SyntaxError, TypeError, AttributeError):
            raise Unusable("unreadable options", "expected an object by number, from 0") from None
