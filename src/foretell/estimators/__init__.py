"""What users hold: ``fit``, ``predict``, ``save``, ``load`` around a learner and its training."""

from foretell.estimators.mq_cnn import MQCNN
from foretell.estimators.mq_rnn import MQRNN
from foretell.estimators.neural import NeuralForecaster

__all__ = ["MQCNN", "MQRNN", "NeuralForecaster"]
