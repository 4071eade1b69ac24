"""MQ-RNN: the decoders of MQ-CNN behind a unidirectional recurrent encoder."""

from __future__ import annotations

from typing import ClassVar

from foretell.estimators.mq_cnn import MQCNN


class MQRNN(MQCNN):
    """Multi-horizon quantile forecasts from a recurrent encoder (Wen et al. 2017).

    The encoder is a unidirectional LSTM: a bidirectional one, as in public code, would show every
    fork but the last its own future. Last season's values are among its inputs ("lag-series", the
    paper's best recurrent variant). All arguments are those of
    :class:`~foretell.estimators.mq_cnn.MQCNN`; ``encoder="gru"`` takes gated recurrent units.
    """

    default_encoder: ClassVar[str] = "lstm"
