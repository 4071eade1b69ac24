"""Models of language in scikit-learn's idiom."""

from foretell.estimators.language.base import LanguageEstimator
from foretell.estimators.language.language_model import LanguageModel, Likelihoods
from foretell.estimators.language.nlu import NLU
from foretell.estimators.language.seq2seq import Seq2Seq
from foretell.estimators.language.sequence_tagger import SequenceTagger
from foretell.estimators.language.span_qa import SpanQA
from foretell.estimators.language.text_classifier import TextClassifier
from foretell.estimators.language.tokens import TokenEstimator

__all__ = [
    "NLU",
    "LanguageEstimator",
    "LanguageModel",
    "Likelihoods",
    "Seq2Seq",
    "SequenceTagger",
    "SpanQA",
    "TextClassifier",
    "TokenEstimator",
]
