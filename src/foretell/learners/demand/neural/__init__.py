"""Neural demand models: causal encoders, forking sequences, quantile heads."""

from foretell.learners.demand.neural.forking import ForkingExamples, draw_forks
from foretell.learners.demand.neural.heads import MonotoneGridHead
from foretell.learners.demand.neural.losses import censored_pinball, pinball
from foretell.learners.demand.neural.mq_learner import MQLearner, MQOutput, MQShape
from foretell.learners.demand.neural.scaling import causal_mean_scale
from foretell.learners.demand.neural.sequences import SequenceReader, SequenceSpec, learn_spec

__all__ = [
    "ForkingExamples",
    "MQLearner",
    "MQOutput",
    "MQShape",
    "MonotoneGridHead",
    "SequenceReader",
    "SequenceSpec",
    "causal_mean_scale",
    "censored_pinball",
    "draw_forks",
    "learn_spec",
    "pinball",
]
