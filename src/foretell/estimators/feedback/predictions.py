"""What a classifier of late labels says of features and of rows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from foretell.data.events import Emission, EventLog
from foretell.errors import DataError, ParameterError
from foretell.estimators.feedback.auxiliary import CHUNK, DelayNet
from foretell.estimators.feedback.method import Columns
from foretell.estimators.feedback.updates import FeedbackUpdates
from foretell.training.weighting import FeedbackWeighting


class FeedbackPredictions(FeedbackUpdates):
    """Probabilities of conversions, engagement and delays, and the weights of rows."""

    def predict_proba(self, X: ArrayLike | EventLog) -> NDArray[np.float64]:
        """Probabilities ``(n, 2)`` of no conversion and of one within the window."""
        inputs = self._inputs(X)
        parts = []
        with torch.inference_mode():
            for part in _chunks(inputs):
                columns: Columns = {}
                for auxiliary in self.auxiliaries_:
                    columns.update(auxiliary.columns(part, None))
                parts.append(self.method_.serve(self.learner_(part), columns).double().numpy())
        positive = np.concatenate(parts) if parts else np.zeros(0)
        return np.stack([1 - positive, positive], 1)

    def predict(self, X: ArrayLike | EventLog) -> NDArray:
        """The likelier class ``(n,)``."""
        positive = self.predict_proba(X)[:, 1]
        return self.classes_[(positive > 0.5).astype(int)]

    def predict_engagement(self, X: ArrayLike | EventLog) -> NDArray[np.float64]:
        """``P(E = 1 | x)`` ``(n,)``: an engagement before the window ends.

        Raises:
            ParameterError: the method has no engagement.
        """
        inputs = self._inputs(X)
        engaged = getattr(self.method_, "engaged", None)
        if engaged is None:
            raise ParameterError(
                f"method {self.method_name!r} does not model engagement; 'funnel' does"
            )
        with torch.inference_mode():
            parts = [engaged(self.learner_(part)).double().numpy() for part in _chunks(inputs)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def predict_delay(self, X: ArrayLike | EventLog, s: float) -> NDArray[np.float64]:
        """``P(D <= s | Y = 1, x)`` ``(n,)``; s in the log's unit.

        Raises:
            ParameterError: the method has no delay model.
        """
        inputs = self._inputs(X)
        for auxiliary in self.auxiliaries_:
            if isinstance(auxiliary.what, DelayNet):
                parts = [
                    auxiliary.what.delay_cdf(auxiliary.probabilities(part), float(s)).numpy()
                    for part in _chunks(inputs)
                ]
                return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
        own = getattr(self.method_, "delay_cdf", None)
        if own is None:
            raise ParameterError(
                f"method {self.method_name!r} with auxiliary={self.setting_.mode!r} has no delay "
                "model; 'esdfm' or 'funnel' with auxiliary='self', and 'dfm', have one"
            )
        with torch.inference_mode():
            parts = [own(self.learner_(part), float(s)).numpy() for part in _chunks(inputs)]
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)

    def sample_weight(self, rows: Emission) -> NDArray[np.float64]:
        """Weight ``(m,)`` that each row has now: of soft labels, the sum over its labels."""
        check_is_fitted(self, "learner_")
        self._check_rows(rows)
        if not len(rows):
            return np.zeros(0)
        kept = self.method_.select(rows)
        batch = self._batch(kept)
        with torch.inference_mode():
            probabilities = self.learner_(batch).log_probabilities.exp()
            weights = torch.ones(len(kept))
            for strategy in self._update_strategies:
                if isinstance(strategy, FeedbackWeighting):
                    weights = weights * strategy.row_masses(probabilities, batch).sum(1)
        result = np.zeros(len(rows))
        if len(kept) == len(rows):
            return weights.double().numpy()
        keys = {(e, s, k): i for i, (e, s, k) in enumerate(_keys(rows))}
        result[[keys[key] for key in _keys(kept)]] = weights.double().numpy()
        return result

    def _inputs(self, X: ArrayLike | EventLog) -> Columns:
        check_is_fitted(self, "learner_")
        if isinstance(X, EventLog):
            return self.transform_(X.matrix())
        if len(self.transform_.categorical):
            values = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
            if values.shape[1] != self.n_features_in_:
                raise DataError(
                    f"X has {values.shape[1]} features, {self.n_features_in_} are expected"
                )
        else:
            values = validate_data(
                self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False
            )
        return self.transform_(values)


def _chunks(inputs: Columns) -> list[Columns]:
    count = len(inputs["numbers"])
    starts = range(0, count, CHUNK)
    return [{key: value[i : i + CHUNK] for key, value in inputs.items()} for i in starts]


def _keys(rows: Emission) -> list[tuple[int, int, int]]:
    return list(zip(rows.entity.tolist(), rows.stage.tolist(), rows.label.tolist(), strict=True))
