"""The audit that a bundle of representations must pass before it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.audits.inversion.attacks import network_inversion, ridge_inversion
from foretell.audits.inversion.linkage import linkage_rate, membership_auc
from foretell.data.clinical.schema import Schema
from foretell.errors import ParameterError
from foretell.estimators.continual.witness import ReleaseWitness


@dataclass(frozen=True)
class PrivacyAudit:
    """Attacks a release as somebody with data of his own would, and says whether it may leave.

    Inversion: a ridge regression and a small network learn from other patients' rows, released
    alike, to read features off the stored vectors. Linkage: whether the stored vector nearest to a
    patient's true representation is that patient's. Membership: whether closeness to a stored
    vector tells that an hour is stored. The gate is on inversion: the median R2 of vital signs, of
    laboratory values (last known ones), and that of age, for the better of both attacks.

    What passes is no proof of anonymity: another attack may do better. ``PrivateRelease`` has a
    guarantee.

    Args:
        max_r2: highest of these that may leave.
        attacks: of ``"ridge"`` and ``"network"``.
        rows: attacked at most, and asked for in linkage and membership.
        known: pairs the attacker learns from at most.
        random_state: of draws and of the network.
    """

    max_r2: float = 0.65
    attacks: tuple[str, ...] = ("ridge", "network")
    rows: int = 2000
    known: int = 20_000
    random_state: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_r2 <= 1:
            raise ParameterError(f"max_r2 must lie in [0, 1], not {self.max_r2}")
        if not self.attacks or not set(self.attacks) <= {"ridge", "network"}:
            raise ParameterError(f"attacks are 'ridge' and 'network', not {self.attacks}")
        if self.rows < 20 or self.known < 20:
            raise ParameterError("rows and known must be at least 20")

    def report(self, witness: ReleaseWitness) -> dict[str, Any]:
        """JSON values: every feature's R2, medians by group, linkage, membership, the verdict."""
        rng = np.random.default_rng(self.random_state)
        found: dict[str, Any] = {"max_r2": self.max_r2, "stored": len(witness.stored)}
        found["pairs_of_attacker"] = min(len(witness.other_rows), self.known)
        if len(witness.other_rows) < 100:
            return {
                **found,
                "passed": False,
                "reason": f"only {len(witness.other_rows)} hours of patients that are not stored: "
                "too few to attack with, so nothing is known",
            }
        some = _some(len(witness.other_rows), self.known, rng)
        asked = _some(len(witness.member_rows), self.rows, rng)
        others = _some(len(witness.other_rows), self.rows, rng)
        assert witness.other_hidden is not None
        found["membership_auc"] = membership_auc(
            witness.member_hidden[asked], witness.other_hidden[others], witness.stored
        )
        if witness.stored_rows is None or witness.other_released is None:
            return {
                **found,
                "inversion": None,
                "linkage": None,
                "passed": True,
                "reason": "no stored row stands for a patient: there is nothing to invert or link",
            }
        found["linkage"] = linkage_rate(
            witness.member_hidden[asked],
            witness.member_patients[asked],
            witness.stored,
            witness.member_patients,
        )
        found["linkage_by_chance"] = float(1 / len(np.unique(witness.member_patients)))
        best = np.zeros(witness.stored_rows.shape[1])
        groups = _groups(witness.names, witness.stored_rows)
        found["inversion"] = {}
        for attack in self.attacks:
            given = (
                witness.other_released[some], witness.other_rows[some],
                witness.stored[asked], witness.stored_rows[asked],
            )  # fmt: skip
            if attack == "ridge":
                r2 = ridge_inversion(*given).r2
            else:
                r2 = network_inversion(*given, seed=self.random_state).r2
            found["inversion"][attack] = {
                name: float(np.median(r2[columns])) for name, columns in groups.items()
            }
            best = np.maximum(best, r2)
        found["inversion"]["best"] = {
            name: float(np.median(best[columns])) for name, columns in groups.items()
        }
        names = witness.names or tuple(f"feature {i}" for i in range(len(best)))
        varies = witness.stored_rows.std(axis=0) > 1e-4
        found["r2_of_features"] = {
            n: round(float(v), 4) for n, v, on in zip(names, best, varies, strict=True) if on
        }
        worst, value = max(found["inversion"]["best"].items(), key=lambda pair: pair[1])
        passed = value <= self.max_r2
        found["passed"] = bool(passed)
        found["reason"] = (
            f"the highest R2 of inversion is {value:.3f} ({worst}), "
            f"{'at most' if passed else 'above'} {self.max_r2:g}"
        )
        return found


def _groups(
    names: tuple[str, ...] | None, rows: NDArray[np.float32]
) -> dict[str, NDArray[np.int64]]:
    """Columns of vital signs, laboratory values and age that vary; of all where none are named."""
    varies = rows.std(axis=0) > 1e-4
    if names is None:
        return {"features": np.flatnonzero(varies)}
    kinds = {v.name: v.kind for v in Schema.default().variables}
    found: dict[str, list[int]] = {"vitals": [], "labs": [], "age": []}
    for i, name in enumerate(names):
        channel, _, block = name.partition(":")
        if not varies[i]:
            continue
        if name == "age":
            found["age"].append(i)
        elif block == "last":
            found["vitals" if kinds.get(channel) == "vital" else "labs"].append(i)
    return {k: np.array(v, np.int64) for k, v in found.items() if v}


def _some(size: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.choice(size, min(size, most), replace=False))
