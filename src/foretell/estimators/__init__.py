"""What users hold: ``fit``, ``predict``, ``save``, ``load`` around a learner and its training."""

from foretell.estimators.ensemble import QuantileEnsemble, combine
from foretell.estimators.language import (
    NLU,
    LanguageModel,
    Seq2Seq,
    SequenceTagger,
    SpanQA,
    TextClassifier,
)
from foretell.estimators.mq_cnn import MQCNN
from foretell.estimators.mq_dnn import MQDNN
from foretell.estimators.mq_rnn import MQRNN
from foretell.estimators.neural import NeuralForecaster
from foretell.estimators.risk import (
    AdditiveRisk,
    DeepAISE,
    FeedForwardRisk,
    SubsetRisk,
    WeibullCox,
)

__all__ = [
    "MQCNN",
    "MQDNN",
    "MQRNN",
    "NLU",
    "AdditiveRisk",
    "DeepAISE",
    "FeedForwardRisk",
    "LanguageModel",
    "NeuralForecaster",
    "QuantileEnsemble",
    "Seq2Seq",
    "SequenceTagger",
    "SpanQA",
    "SubsetRisk",
    "TextClassifier",
    "WeibullCox",
    "combine",
]
