"""The audit that a bundle of representations must pass before it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.audits.inversion.attacks import network_inversion, ridge_inversion
from foretell.audits.inversion.linkage import Linkage, linkage, membership_auc, sigma_for, units_for
from foretell.audits.inversion.trajectories import Trajectories, sigma_for_patients, trajectories
from foretell.data.clinical.schema import Schema
from foretell.errors import ParameterError
from foretell.estimators.continual.witness import ReleaseWitness

_FEW = 100
"""Hours that an attacker must know, so that what he does not find says something."""


@dataclass(frozen=True)
class PrivacyAudit:
    """Attacks a release as somebody with data of his own would, and says whether it may leave.

    Inversion: a ridge regression and a network learn from other patients' rows, released alike, to
    read features off the stored vectors; half of the stored patients are among those the attacker
    knows, and the other half is attacked. Linkage: whether the stored vector that is nearest, or
    likeliest, to a patient's true representation is that patient's. Membership: whether closeness
    to a stored vector tells that an hour is stored; None where hardly anybody is left out of what
    is stored, so that it is nothing to find out.

    The gate is on inversion and on linkage. Inversion: the median R2 of vital signs, of laboratory
    values (last known ones), and that of age, each feature by the better of both attacks. Linkage:
    the share of patients whom the better of both attacks finds. By chance it is one over the number
    of stored patients, if all have as many rows (``linkage_by_chance``). The default allows one in
    twenty: what a guess among the twenty patients finds that a bundle must have of each class.
    Whoever links has the very hour of the patient already; what he learns is that it is stored, and
    its label.

    Linkage is also tried with all hours of a patient that are stored (``of_patients`` of the
    report, see :class:`Trajectories`): whether one of his vectors is found among all, and, as if
    it were known which stored vectors are of one patient, whether all of his are. Vectors are
    stored without a number, in an order that follows from nothing in the file: the gate counts
    the latter with ``groups=True`` only.

    What passes is no proof of anonymity: another attack may do better. ``PrivateRelease`` has a
    guarantee.

    Args:
        max_r2: highest of these that may leave.
        max_linkage: largest share of patients linked that may leave; 1 allows all, and the report
            still says how many are.
        attacks: of ``"ridge"`` and ``"network"``.
        groups: whether the gate counts on an attacker who knows which vectors are of one patient.
        rows: attacked at most, and asked for in linkage and membership.
        patients: asked for at most in linkage by all their hours.
        known: pairs the attacker learns from at most.
        random_state: of draws and of the network.
    """

    max_r2: float = 0.65
    max_linkage: float = 0.05
    attacks: tuple[str, ...] = ("ridge", "network")
    groups: bool = False
    rows: int = 2000
    patients: int = 300
    known: int = 20_000
    random_state: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_r2 <= 1:
            raise ParameterError(f"max_r2 must lie in [0, 1], not {self.max_r2}")
        if not 0 < self.max_linkage <= 1:
            raise ParameterError(f"max_linkage must lie in (0, 1], not {self.max_linkage}")
        if not self.attacks or not set(self.attacks) <= {"ridge", "network"}:
            raise ParameterError(f"attacks are 'ridge' and 'network', not {self.attacks}")
        if min(self.rows, self.known, self.patients) < 20:
            raise ParameterError("rows, patients and known must be at least 20")

    def report(self, witness: ReleaseWitness) -> dict[str, Any]:
        """JSON values: every feature's R2, medians by group, linkage, membership, the verdict.

        Where it is not passed, ``remedy`` says what would be right.
        """
        rng = np.random.default_rng(self.random_state)
        found: dict[str, Any] = {
            "max_r2": self.max_r2,
            "max_linkage": self.max_linkage,
            "stored": len(witness.stored),
        }
        others = len(witness.other_rows)
        # Half of the stored patients teach the attacker, too, where rows stand for them.
        known = 0 if witness.stored_rows is None else len(witness.member_rows) // 2
        if others < _FEW and known < _FEW:
            return {
                **found,
                "passed": False,
                "reason": f"only {others} hours of patients that are not stored: "
                "too few to attack with, so nothing is known",
                "remedy": "Store fewer hours (memory_per_site), so that patients are left out",
            }
        # Where nearly everybody is stored, being stored is nothing to find out.
        found["membership_auc"] = None
        if others >= _FEW:
            asked = _some(len(witness.member_rows), self.rows, rng)
            found["membership_auc"] = membership_auc(
                witness.member_hidden[asked],
                witness.other_hidden[_some(others, self.rows, rng)],
                witness.stored,
            )
        if witness.stored_rows is None:
            return {
                **found,
                "inversion": None,
                "linkage": None,
                "passed": True,
                "reason": "no stored row stands for a patient: there is nothing to invert or link",
            }
        assert witness.other_released is not None
        added = (witness.stored - witness.member_hidden).var(axis=0, dtype=np.float64)
        people = np.unique(witness.member_patients)
        aware = np.isin(
            witness.member_patients, rng.choice(people, len(people) // 2, replace=False)
        )
        rest = np.flatnonzero(~aware)
        attacked = rest[_some(len(rest), self.rows, rng)]
        linked = linkage(
            witness.member_hidden[attacked],
            witness.member_patients[attacked],
            witness.stored,
            witness.member_patients,
            added,
            np.concatenate([witness.other_hidden, witness.member_hidden[aware]]),
        )
        found["linkage"], found["linkage_by_chance"] = linked.best, linked.by_chance
        found["linkage_nearest"], found["linkage_likely"] = linked.nearest, linked.likely
        found |= self._inverted(
            witness,
            witness.stored_rows,
            witness.other_released,
            np.flatnonzero(aware),
            attacked,
            rng,
        )
        asked = np.unique(witness.member_patients[rest])
        asked = asked[_some(len(asked), self.patients, rng)]
        paths = trajectories(
            witness.member_hidden,
            witness.stored,
            witness.member_patients,
            added,
            np.concatenate([witness.other_hidden, witness.member_hidden[aware]]),
            np.concatenate([witness.other_patients, witness.member_patients[aware]]),
            asked,
            rng,
        )
        found["of_patients"] = None if paths is None else paths._asdict()
        worst, value = max(
            found["inversion"]["best"].items(), key=lambda pair: pair[1], default=("nothing", 0.0)
        )
        whole = 0.0 if paths is None else paths.linked(self.groups)
        read, known = value <= self.max_r2, max(linked.best, whole) <= self.max_linkage
        found["passed"] = bool(read and known)
        found["reason"] = (
            f"the highest R2 of inversion is {value:.3f} ({worst}), "
            f"{'at most' if read else 'above'} {self.max_r2:g}; "
            f"{linked.best:.1%} are linked to their stored vector (by chance "
            f"{linked.by_chance:.1%}){_told(paths, self.groups)}, "
            f"{'at most' if known else 'above'} {self.max_linkage:.1%}"
        )
        if not known:
            found["remedy"] = self._remedy(witness, linked, added, rng)
        elif not read:
            found["remedy"] = "Release with more noise, or prototypes (PrototypeRelease)"
        return found

    def _inverted(
        self,
        witness: ReleaseWitness,
        rows: NDArray[np.float32],
        released: NDArray[np.float32],
        mine: NDArray[np.int64],
        attacked: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """What was read off: R2 by attack and group, and that of every feature.

        The attacker knows the stored rows ``mine`` beside those of others.
        """
        h = np.concatenate([released, witness.stored[mine]])
        x = np.concatenate([witness.other_rows, rows[mine]])
        whose = np.concatenate([witness.other_patients, witness.member_patients[mine]])
        some = _some(len(h), self.known, rng)
        some = some[np.argsort(_shuffled(whose[some], rng), kind="stable")]
        best = np.full(rows.shape[1], -np.inf)
        groups = _groups(witness.names, rows)
        inversion: dict[str, Any] = {}
        for attack in self.attacks:
            given = (h[some], x[some], witness.stored[attacked], rows[attacked])
            if attack == "ridge":
                r2 = ridge_inversion(*given).r2
            else:
                r2 = network_inversion(*given, seed=self.random_state).r2
            inversion[attack] = {n: float(np.median(r2[c])) for n, c in groups.items()}
            best = np.maximum(best, r2)
        inversion["best"] = {n: float(np.median(best[c])) for n, c in groups.items()}
        names = witness.names or tuple(f"feature {i}" for i in range(len(best)))
        varies = rows.std(axis=0) > 1e-4
        return {
            "pairs_of_attacker": len(some),
            "inversion": inversion,
            "r2_of_features": {
                n: round(float(v), 4) for n, v, on in zip(names, best, varies, strict=True) if on
            },
        }

    def _remedy(
        self,
        witness: ReleaseWitness,
        linked: Linkage,
        added: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> str:
        """What would bring linkage to what is allowed, tried on the representations here."""
        if linked.by_chance >= self.max_linkage:
            return (
                f"Store more patients: a guess alone finds {linked.by_chance:.1%} among "
                f"{len(np.unique(witness.member_patients))}"
            )
        hidden, people = witness.member_hidden, witness.member_patients
        allowed = self.max_linkage
        ways = []
        for_all = [
            sigma_for(hidden, people, allowed, rng),
            sigma_for_patients(hidden, people, allowed, rng, groups=self.groups),
        ]
        if None not in for_all:
            sigma = max(s for s in for_all if s is not None)
            ways.append(
                f"Gaussian noise of {sigma:g} standard deviations of each unit "
                f"(GaussianRelease(sigma={sigma:g}); rounding alone would need steps of "
                f"{np.sqrt(12) * sigma:.2g})"
            )
        one = np.unique(people, return_index=True)[1]
        if len(people) > 1.5 * len(one):
            alone = sigma_for(hidden[one], people[one], allowed, rng)
            if alone is not None:
                ways.append(
                    "one hour of each patient (hours_per_patient=1) under "
                    f"GaussianRelease(sigma={alone:g})"
                )
        ways.append("prototypes, which stand for nobody (PrototypeRelease)")
        units = None
        if linked.best > allowed:
            units = units_for(hidden, witness.stored, people, added, allowed, rng)
        if units is not None:
            ways.append(f"at the present noise {units} of the {hidden.shape[1]} units (hidden=)")
        return "What would do: " + "; or ".join(ways)


def _told(paths: Trajectories | None, groups: bool) -> str:
    """What was found with all hours of a patient, in words."""
    if paths is None:
        return ""
    known = f"; {paths.group:.1%} if it were known which vectors are of one patient"
    if not groups:
        known += ", which does not count here"
    return (
        f", {paths.vector:.1%} of patients by all their {paths.hours:.3g} hours "
        f"(by chance {paths.vector_by_chance:.1%}){known}"
    )


def _groups(
    names: tuple[str, ...] | None, rows: NDArray[np.float32]
) -> dict[str, NDArray[np.int64]]:
    """Columns of vital signs, laboratory values and age that vary; of all where none is there."""
    varies = rows.std(axis=0) > 1e-4
    kinds = {v.name: v.kind for v in Schema.default().variables}
    found: dict[str, list[int]] = {"vitals": [], "labs": [], "age": []}
    for i, name in enumerate(names or ()):
        channel, _, block = name.partition(":")
        if not varies[i]:
            continue
        if name == "age":
            found["age"].append(i)
        elif block == "last":
            found["vitals" if kinds.get(channel) == "vital" else "labs"].append(i)
    # Where no feature is any of these, all are looked at.
    every = {"features": np.flatnonzero(varies).tolist()}
    told = found if any(found.values()) else every
    return {k: np.array(v, np.int64) for k, v in told.items() if v}


def _some(size: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.choice(size, min(size, most), replace=False))


def _shuffled(values: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of the values in an order by chance."""
    distinct, place = np.unique(values, return_inverse=True)
    return np.asarray(rng.permutation(len(distinct))[place], np.int64)
