"""Kinds of statements that are easily misread: what a careful reader takes for the answer, and what for none."""

# ruff: noqa: E501, the responses are lines of their own

from __future__ import annotations

import pytest

from alphamed_nemo.answers.protocols import extract_answer
from tests.unit.answer_variants import variants

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Chronic myeloid leukemia")
LUNG = ("Pulmonary embolism", "Pleural effusion", "Pneumonia", "Pertussis")
GERMS = (
    "Listeria monocytogenes",
    "Pertussis",
    "Histoplasmosis",
    "Diphtheria",
    "Coli bacteriophage",
    "Crohn disease",
    "Gastritis",
)
CASES = [  # kind, options, answer, responses
    (
        "the text of the option comes before the name of a germ",
        LUNG,
        "C",
        [
            "The correct answer is C. Pneumonia.\nIt is typical of this age.",
            "The answer is C. pneumonia",
            "Answer: C. Pneumonia, since the patient coughs.\nThe X-ray fits.",
            "I would choose C. Pneumonia because of fever.",
            "**C. Pneumonia**",
            "So the answer is C. Pneumonia is the likeliest.",
            "Therefore, C. Pneumonia.",
        ],
    ),
    (
        "the text of the option comes before the name of a germ",
        LUNG,
        "D",
        ["The correct answer is D. Pertussis.\nIt whoops.", "the answer is d. pertussis"],
    ),
    (
        "the text of the option comes before the name of a germ",
        GERMS,
        "B",
        ["The correct answer is B. Pertussis.\nIt whoops."],
    ),
    (
        "the text of the option comes before the name of a germ",
        GERMS,
        "C",
        ["The correct answer is C. Histoplasmosis.\nIt fits."],
    ),
    (
        "the text of the option comes before the name of a germ",
        GERMS,
        "D",
        ["The correct answer is D. Diphtheria.\nIt fits."],
    ),
    (
        "the text of the option comes before the name of a germ",
        GERMS,
        "E",
        ["The correct answer is E. Coli bacteriophage.\nIt fits."],
    ),
    (
        "the text of the option comes before the name of a germ",
        LUNG,
        None,
        [
            "The answer is C. difficile infection.",
            "The answer is E. coli.",
            "The organism is most likely C. diphtheriae.",
            "The answer is B. pertussis vaccine.",
        ],
    ),
    (
        "the text of the option comes before the name of a germ",
        ("Listeria", "Salmonella", "Shigella", "Vibrio", "Campylobacter"),
        None,
        ["The answer is B. cereus.\nIt is food poisoning.", "The answer is E. coli."],
    ),
    (
        "other options are named in the sentence or the last line",
        OPTIONS,
        "C",
        [
            "Option A is wrong. The answer is (C) Ibuprofen.",
            "The answer is (C), since (A) and (B) bleed.",
            "The answer is C, as A and B are wrong.",
            "(C) Ibuprofen is the answer, since (A) and (B) bleed.",
            "A and B bleed; the answer is C.",
            "A, B and D are wrong. The answer is C.",
            "The correct answer is (C); (A), (B) and (D) are wrong.",
            "Reasoning here.\nOption A is wrong. Option B is wrong. The answer is (C) Ibuprofen.",
            "The answer is C.\nA and B bleed.",
            "The answer is C.\n(A) and (B) are anticoagulants, and (D) is a disease.",
            "The answer is C. A and D are wrong.",
            "So C.\nA, B, and D are incorrect because they bleed.",
            "A is wrong, B is wrong, so the answer is C.",
            "Not A, not B; the answer is C.",
            "Answer: C (A and B bleed)",
            "Answer: C, not A or B.",
            "Unlike A and B, the answer C is an NSAID, so the answer is C.",
        ],
    ),
    (
        "a response that breaks off",
        OPTIONS,
        None,
        [
            "A. Aspirin: this is not the most appropriate because",
            "A. Aspirin: this drug inhibits platelets and",
            "A. Aspirin: wrong\nB. Warfarin: wro",
            "A. Aspirin: wrong.\nIt bleeds.\nB. Warfarin",
            "A. Aspirin - an antiplatelet that\n",
            "Let us go through the options.\n\nA. Aspirin",
            "Options:\nA. Aspirin",
            "- Aspirin: wrong.\n- Warfarin",
            "**Aspirin**: bleeds.\n\n**Warfarin**",
            "1. Aspirin is wrong.\n2. Warfarin is",
            "B. Warfarin: this is an anticoagulant, which",
            "C. Ibuprofen is a",
            "C. Ibuprofen, which",
            "The options are A. Aspirin, B. Warf",
            "The answer is A,",
            "The answer is A or",
            "The answer is A and",
            "The answer is (C",
            "The answer is **C",
            "The answer is either A",
            "A. Aspirin is",
            "Option A: Aspirin is a drug that",
            "A) Aspirin: bleeding. B) Warfarin: bleeding. C) Ibu",
            "The correct answer is Ibup",
            "A. Aspirin: this is not the most appropriate because it bleeds.\nB. Warfarin: this is",
            "Considering each option:\n\nA. Aspirin: is an antiplatelet drug\n\nB. Warfarin: is an anticoag",
            "Let us look at each.\n(A) Aspirin: no.\n(B) Warfarin: no.\n(C) Ibuprofen",
            "A. Aspirin: incorrect.\n\nB. Warfarin: incorrect.\n\nC. Ibuprofen: a nonsteroidal",
            "A. Aspirin would be the best choice if the patient had",
            "A: Aspirin is incorrect since it",
            "B. The patient has",
            "A. Aspirin — not indicated here, as the",
        ],
    ),
    (
        "a response that breaks off",
        OPTIONS,
        "C",
        [
            "C. Ibuprofen",
            "Reasons.\n\nC. Ibuprofen",
            "A. Aspirin: wrong\nB. Warfarin: wrong\nC. Ibuprofen: right\nD. Chronic myeloid leukemia: wrong\n\nC. Ibuprofen",
            "The answer is C because it",
            "The answer is C.\n\nA. Aspirin: wrong because",
            "The answer is C.\n\nA. Aspirin: wrong.\nB. Warfarin",
            "A. Aspirin: wrong.\nB. Warfarin: wrong.\nThe answer is:\nC. Ibuprofen",
            "C. Ibuprofen. It is an NSAID and",
        ],
    ),
    (
        "a letter with a sub- or superscript",
        OPTIONS,
        None,
        [
            "Therefore, the D_2 receptor is blocked",
            "Therefore, D_2 is blocked.",
            "So the D₂ receptor is blocked",
            "Therefore, $D_2$ is blocked",
            "Thus, D$_2$ receptors",
            "The answer is B_12 deficiency",
            "The answer is C_3",
            "So A_1 and A_2",
            "Hence C^+ is",
            "The answer is D_{2} blockade.",
            "Therefore, T_4 and C_3 are low.",
            "Therefore, C3 is low",
            "Thus the B12 is low",
            "So the A₁ receptor",
            "The answer is A^{2+}",
            "The answer is C_max",
            "Therefore, **D_2** is blocked.",
            "Therefore, D-dimer is high",
            "The answer is A₁c",
            "Therefore, C% is low",
        ],
    ),
    (
        "a letter with a sub- or superscript",
        OPTIONS,
        "D",
        [
            "The answer is _D_.",
            "The answer is __D__",
            "The answer is *D*.",
            "Answer: _D_",
            "So the D_2 receptor is blocked. The answer is D.",
        ],
    ),
    (
        "a next question",
        OPTIONS,
        "C",
        [
            "The answer is C.\n\nQuestion: A 30-year-old man has pain. What is best?\nA. x\nB. y\nC. z\nD. w\nAnswer: B",
            "Answer: C\n\nQuestion 2: Which drug?\nA. Foo\nB. Bar\nAnswer: A",
            "C\n\nQ: Next one?\nA: B",
            "Answer: C\n\nA 23-year-old woman has fever. What is the diagnosis?\nA. Flu\nB. Cold\nC. TB\nD. HIV\nAnswer: A",
            "Answer: C\nExplanation: it blocks COX.\n\nQuestion: x?\nAnswer: D",
            "The answer is C.\n\n### Question\nWhat is y?\n\n### Answer\nB",
            "The answer is C.\n\nHuman: next question\n\nAssistant: The answer is B.",
            "The answer is C.<|im_end|>\n<|im_start|>user\nNext\n<|im_end|>\n<|im_start|>assistant\nThe answer is A.",
            "The answer is C.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nfoo<|start_header_id|>assistant<|end_header_id|>\n\nThe answer is A",
            "The answer is C.\n\n2. Which of the following is true?\nA) a\nB) b\nAnswer: B",
            "Answer: C\n\nQuestion 12. foo?\nAnswer: (D)",
            "The answer is C<|endoftext|>Question: foo. The answer is A.",
            "Answer: C\n\nProblem 2: foo?\nAnswer: A",
            "So \\boxed{C}\n\nQuestion: bar?\n\\boxed{A}",
            "**Answer: C**\n\n**Question 3:** foo?\n**Answer: B**",
            "Answer: C\n\nNext question: bar?\nAnswer: B",
            "[INST] q [/INST] The answer is C. [INST] r [/INST] The answer is A.",
            "The answer is C.\n\nUser: what about this one?\n\nAssistant: Answer: A",
            "C. Ibuprofen\n\nQuestion: foo?\nA. a\nB. b\nAnswer: B. b",
            "Question: Which drug blocks COX?\nA. Aspirin\nB. Warfarin\nC. Ibuprofen\nD. Chronic myeloid leukemia\nAnswer: C",
            "Question: foo?\nAnswer: C\n\nQuestion: bar?\nAnswer: A",
            "## Question\nWhich drug?\n\n## Answer\nC",
            "Let me restate.\n\nQuestion: which drug?\n\nThe answer is C.",
            "Which is best?\n\nThe answer is C.",
            "It blocks COX.\n\nAnswer: C\n\nAnswer the following question.\n\nA 5-year-old boy has a rash. What is it?\n\nA. Measles\nB. Mumps\n\nAnswer: B",
        ],
    ),
    (
        "a next question",
        OPTIONS,
        None,
        [
            "The patient has pain and fever and a long history of disease, and we must look at all of it first.\n\nQuestion: next?\nA. x\nAnswer: B"
        ],
    ),
    (
        "a letter and its reason",
        OPTIONS,
        "B",
        [
            "B. The patient has a new murmur and fever, so endocarditis is likely.",
            "B. The patient has a fever and a new murmur.\nThis suggests endocarditis.",
            "We think.\n\nB. The patient has fever and a new murmur, which fits best.",
            "(B) The INR target is easily monitored with this drug.",
            "B) It acts on vitamin K dependent factors.",
            "**B.** The drug inhibits vitamin K epoxide reductase.",
            "B. The patient has atrial fibrillation with a high stroke risk, and long-term anticoagulation with a vitamin K antagonist is therefore needed in this case.",
        ],
    ),
    (
        "a letter and its reason",
        OPTIONS,
        None,
        [
            "B. The patient has",
            "B. This is incorrect because it bleeds.",
            "A. The patient has fever. B. The patient has pain.",
            "A. The drug works fast.\nB. The drug works slowly.",
            "B. cereus is the cause of this.",
            "A patient has fever and a new murmur.",
        ],
    ),
]


@pytest.mark.parametrize(("kind", "options", "answer", "responses"), CASES, ids=[f"{c[0]}: {c[2]}" for c in CASES])
def test_kind(kind: str, options: tuple[str, ...], answer: str | None, responses: list[str]) -> None:
    read = {response: extract_answer(response, options, "lenient") for response in responses}
    assert read == dict.fromkeys(responses, answer)


def misread(count: int, seed: int) -> tuple[list[str], list[str]]:
    """The responses read as a letter that they do not answer with, and those whose answer is not read."""
    wrong, unread = [], []
    for variant in variants(count, seed):
        letter = extract_answer(variant.response, variant.options, "lenient")
        if letter != variant.answer:
            (unread if letter is None else wrong).append(variant.response)
    return wrong, unread


def test_variants_are_read_as_what_they_state() -> None:
    assert misread(600, seed=0) == ([], [])


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 5))
def test_of_five_thousand_variants_none_is_read_as_another_letter(seed: int) -> None:
    wrong, unread = misread(5_000, seed)
    assert wrong == [] and len(unread) <= 5, unread
