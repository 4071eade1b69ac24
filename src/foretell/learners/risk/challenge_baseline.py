"""The official baseline of the 2019 challenge: a linear Weibull-Cox model with published constants.

Reyna et al., Early prediction of sepsis from clinical data: the PhysioNet/Computing in Cardiology
Challenge 2019, Critical Care Medicine 48(2), 2020; its example entry gives the constants.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from foretell.data.clinical.schema import Schema
from foretell.data.clinical.sexes import sex_numbers
from foretell.data.clinical.stays import Stays
from foretell.errors import DataError
from foretell.learners.risk.weibull import risk_within

SCALE, SHAPE, HORIZON, THRESHOLD = 7.8521, 1.0389, 4.0, 0.45

# fmt: off
_CHANNELS = {  # mean, standard deviation, log hazard ratio
    "HR": (83.8996, 17.6494, 0.1806), "O2Sat": (97.0520, 3.0163, 0.0249),
    "Temp": (36.8055, 0.6895, 0.2120), "SBP": (126.2240, 24.2988, -0.0495),
    "MAP": (86.2907, 16.6459, 0.0084), "DBP": (66.2070, 14.0771, -0.0980),
    "Resp": (18.7280, 4.7035, 0.0774), "EtCO2": (33.7373, 11.0158, -0.0350),
    "BaseExcess": (-3.1923, 3.7845, -0.0948), "HCO3": (22.5352, 3.1567, 0.1169),
    "FiO2": (0.4597, 6.2684, 0.7476), "pH": (7.3889, 0.0710, 0.0323),
    "PaCO2": (39.5049, 9.1087, 0.0305), "SaO2": (96.8883, 3.3971, -0.0251),
    "AST": (103.4265, 430.3638, 0.0330), "BUN": (22.4952, 19.0690, 0.1424),
    "Alkalinephos": (87.5214, 81.7152, 0.0324), "Calcium": (7.7210, 2.3992, -0.1450),
    "Chloride": (106.1982, 4.9761, -0.0594), "Creatinine": (1.5961, 2.0648, 0.0085),
    "Bilirubin_direct": (0.6943, 1.9926, -0.0501), "Glucose": (131.5327, 45.4816, 0.0265),
    "Lactate": (2.0262, 1.6008, 0.0794), "Magnesium": (2.0509, 0.3793, -0.0107),
    "Phosphate": (3.5130, 1.3092, 0.0225), "Potassium": (4.0541, 0.5844, 0.0040),
    "Bilirubin_total": (1.3423, 2.5511, 0.0799), "TroponinI": (5.2734, 20.4142, -0.0287),
    "Hct": (32.1134, 6.4362, 0.0531), "Hgb": (10.5383, 2.2302, -0.0728),
    "PTT": (38.9974, 29.8928, 0.0243), "WBC": (10.5585, 7.0606, 0.1017),
    "Fibrinogen": (286.5404, 137.3886, 0.0662), "Platelets": (198.6777, 96.8997, -0.0074),
}
_DESCRIBED = {
    "age": (60.8711, 16.1887, 0.0281), "sex": (0.5435, 0.4981, 0.0078),
    "MICU": (0.0615, 0.7968, 0.0593), "SICU": (0.0727, 0.8029, -0.2046),
    "admission": (-59.6769, 160.8846, -0.0167), "hour": (28.4551, 29.5367, 0.1239),
}
# fmt: on


class ChallengeBaseline(BaseEstimator):
    """Scores of the challenge's own example: what every entry had to beat.

    It reads the values of an hour alone: nothing is carried forward, and what was not measured
    counts as the mean. Nothing is learned.
    """

    def fit(self, stays: Stays, y: None = None) -> ChallengeBaseline:
        """Nothing is learned; for scikit-learn's sake."""
        return self

    def predictor(self, stays: Stays) -> NDArray[np.float64]:
        """(R,) log hazard ratio of every hour.

        Raises:
            DataError: the stays do not have the 34 channels of the challenge.
        """
        if stays.schema.fingerprint() != Schema.default().channels("p19").fingerprint():
            raise DataError(
                "the challenge's baseline needs the 34 channels of the challenge",
                hint="Read the stays with Schema.default().channels('p19')",
            )
        total = np.zeros(stays.n_rows)
        for name, constants in _CHANNELS.items():
            total += _term(stays.column(name), *constants)
        unknown = np.full(len(stays), "unknown", object)
        sex = stays.names("sex") if "sex" in stays.categories else unknown
        unit = stays.names("unit") if "unit" in stays.categories else unknown
        known = unit != "unknown"
        described = {
            "age": stays.number("age"),
            "sex": sex_numbers(sex),
            "MICU": np.where(known, (unit == "MICU").astype(float), np.nan),
            "SICU": np.where(known, (unit == "SICU").astype(float), np.nan),
            "admission": -stays.number("admission"),
        }
        for name, values in described.items():
            total += np.repeat(_term(values, *_DESCRIBED[name]), stays.lengths)
        return total + _term(stays.hours(), *_DESCRIBED["hour"])

    def predict_risk(self, stays: Stays, horizons: ArrayLike = HORIZON) -> NDArray[np.float64]:
        """(R, K) risk of the onset within each horizon in hours."""
        return risk_within(self.predictor(stays), horizons, SCALE, SHAPE)

    def predict_proba(self, stays: Stays) -> NDArray[np.float64]:
        """(R, 2) probabilities of no onset and of the onset within four hours."""
        risk = self.predict_risk(stays)[:, 0]
        return np.stack([1 - risk, risk], axis=1)

    def predict(self, stays: Stays) -> NDArray[np.bool_]:
        """(R,) whether the risk is above 0.45, as the example alarmed."""
        return self.predict_risk(stays)[:, 0] > THRESHOLD


def _term(values: NDArray, mean: float, deviation: float, beta: float) -> NDArray[np.float64]:
    z = (np.asarray(values, np.float64) - mean) / deviation
    return beta * np.where(np.isnan(z), 0.0, z)
