"""Data sets as their authors and the hub publish them, read into questions: one small loader for each."""

from __future__ import annotations

from alphamed_nemo import user_code
from alphamed_nemo.config.sources import SourceConfig, SourcesConfig
from alphamed_nemo.data.sources.alphamed19k import AlphaMed19K
from alphamed_nemo.data.sources.base import Loaded, Loader, SetAside, load
from alphamed_nemo.data.sources.exams import CareQA, HeadQA, MedConceptsQA, MedHALT, MetaMedQA, PubHealthBench
from alphamed_nemo.data.sources.gpqa import GPQA
from alphamed_nemo.data.sources.medbullets import Medbullets
from alphamed_nemo.data.sources.medcalc import MedCalc
from alphamed_nemo.data.sources.medmcqa import MedMCQA
from alphamed_nemo.data.sources.medqa import MedQA
from alphamed_nemo.data.sources.medxpertqa import MedXpertQA
from alphamed_nemo.data.sources.mmlu import MMLU
from alphamed_nemo.data.sources.mmlu_pro import MMLUPro
from alphamed_nemo.data.sources.pubmedqa import PubMedQA
from alphamed_nemo.data.sources.questions import Questions
from alphamed_nemo.data.sources.supergpqa import MARC, SuperGPQA

LOADERS: dict[str, type[Loader]] = {
    "medqa": MedQA,
    "medmcqa": MedMCQA,
    "pubmedqa": PubMedQA,
    "mmlu_pro": MMLUPro,
    "gpqa": GPQA,
    "medxpertqa": MedXpertQA,
    "mmlu": MMLU,
    "medbullets": Medbullets,
    "supergpqa": SuperGPQA,
    "medcalc": MedCalc,
    "careqa": CareQA,
    "headqa": HeadQA,
    "m_arc": MARC,
    "medconceptsqa": MedConceptsQA,
    "metamedqa": MetaMedQA,
    "pubhealthbench": PubHealthBench,
    "medhalt": MedHALT,
    "alphamed19k": AlphaMed19K,
    "questions": Questions,
}

__all__ = ["LOADERS", "Loaded", "SetAside", "SourceConfig", "SourcesConfig", "load_source"]


def load_source(name: str, source: SourceConfig, evaluation: bool = False, max_unusable_share: float = 0.02) -> Loaded:
    """Read one data set.

    Args:
        name: what its questions are called; the loader too, where `source.set` is empty.
        evaluation: take the hub split that the authors evaluate on, where `source.split` is empty.
        max_unusable_share: share of the rows that may be set aside.

    Raises:
        ValueError: no such loader, an unreadable source, another schema, or too many unusable rows.
    """
    return load(loader_of(name, source), name, source, evaluation, max_unusable_share)


def loader_of(name: str, source: SourceConfig) -> type[Loader]:
    """The loader of a data set: one of `LOADERS`, or a user's own class, whose file is run then.

    Raises:
        ValueError: there is none, or the user's is no subclass of `Loader`.
    """
    kind = source.set or name
    if user_code.is_place(kind):
        loader = user_code.load(kind, f"data set {name}")
        if not isinstance(loader, type) or not issubclass(loader, Loader):
            raise ValueError(f"data set {name}: {kind} is no subclass of alphamed_nemo.data.sources.base.Loader")
        return loader
    if kind not in LOADERS:
        raise ValueError(f"data set {name}: no loader {kind!r}; `set` is one of {', '.join(LOADERS)}")
    return LOADERS[kind]
