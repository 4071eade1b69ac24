"""What users hold: ``fit``, ``predict``, ``save``, ``load`` around a learner and its training."""

from foretell.estimators.ensemble import QuantileEnsemble, combine
from foretell.estimators.mq_cnn import MQCNN
from foretell.estimators.mq_dnn import MQDNN
from foretell.estimators.mq_rnn import MQRNN
from foretell.estimators.neural import NeuralForecaster
from foretell.estimators.nlu import NLU
from foretell.estimators.risk import FeedForwardRisk
from foretell.estimators.risk_stream import RiskStream

__all__ = [
    "MQCNN",
    "MQDNN",
    "MQRNN",
    "NLU",
    "FeedForwardRisk",
    "NeuralForecaster",
    "QuantileEnsemble",
    "RiskStream",
    "combine",
]
