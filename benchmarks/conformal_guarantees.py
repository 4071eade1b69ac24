"""What conformal tests promise of hours that come in patients, in a simulation and on real stays.

    python benchmarks/conformal_guarantees.py ../shared/data

Simulated: half of an hour's strangeness is its patient's; stays have 27 hours in the median; in
one case long stays are the stranger ones. Real: hospital A of the 2019 challenge, parted as in
``abstention.py``, calibrated on 5,000 patients and on a tenth of them. Said is the share rejected
of all hours of new patients, and of an hour drawn at random from each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _common import machine, save
from abstention import ALPHAS, clustered_error, parts

from foretell.data.clinical import target
from foretell.data.public import physionet2019
from foretell.decisions.abstention import Gate, MondrianConformal
from foretell.decisions.abstention.calibration import CalibrationScores

KINDS = ("rows", "hours", "patients")


def patients(rng: np.random.Generator, count: int, stranger: float) -> tuple:
    own = rng.normal(size=count)
    length = stranger * own + np.sqrt(1 - stranger**2) * rng.normal(size=count)
    hours = np.clip(np.round(np.exp(3.3 + 0.8 * length)), 4, 336).astype(int)
    group = np.repeat(np.arange(count), hours)
    return 0.7 * own[group] + 0.71 * rng.normal(size=len(group)), group, hours


def simulated(alpha: float = 0.05, repeats: int = 200) -> list[dict]:
    rows = []
    for stranger in (0.0, 0.6):
        rng = np.random.default_rng(0)
        fresh, group, hours = patients(rng, 20_000, stranger)
        order = np.argsort(fresh)
        ascending = fresh[order]
        # Shares of hours, and of patients' hours, beyond each score.
        of_patients = np.append(np.cumsum((1 / hours[group[order]])[::-1])[::-1], 0) / len(hours)
        for count in (30, 50, 200, 1000):
            found: dict[str, list] = {kind: [] for kind in KINDS}
            for _ in range(repeats):
                scores, groups, _ = patients(rng, count, stranger)
                for kind in KINDS:
                    held = CalibrationScores.of(scores, groups, kind)
                    kept = held.scores[held.p_values(held.scores) >= alpha]
                    limit = kept.max() if held.least < alpha else np.inf
                    at = np.searchsorted(ascending, limit, side="right")
                    found[kind].append((1 - at / len(fresh), of_patients[at]))
            for kind in KINDS:
                mean, spread = np.mean(found[kind], axis=0), np.std(found[kind], axis=0)
                rows.append({
                    "long stays are stranger": stranger > 0, "patients": count, "guarantee": kind,
                    "of hours": float(mean[0]), "of patients": float(mean[1]),
                    "spread of hours": float(spread[0]), "spread of patients": float(spread[1]),
                })  # fmt: skip
                print(rows[-1], flush=True)
    return rows


def real(root: Path) -> list[dict]:
    stays = physionet2019(root / "physionet2019_sepsis", hospitals=("A",))
    train, calibration, test = parts(stays)
    wanted, inputs, good = target(test), None, None
    patient = np.repeat(test.patients.astype(str), test.lengths)
    rows = []
    for every in (1, 10):
        part = calibration.select(slice(0, None, every))
        for kind in KINDS:
            gate = Gate(conformal=MondrianConformal(alpha=0.05, guarantee=kind), max_rows=40_000)
            gate.fit(train, part)
            if inputs is None:
                inputs = gate.features_.transform(test)
                good = wanted.at_risk & ~gate.quality.check(test).invalid
            p_values = gate.conformal.test(inputs).p_values.max(1)
            for c in (0, 1):
                mine = good & (wanted.label == c)
                _, number = np.unique(patient[mine], return_inverse=True)
                for alpha in ALPHAS:
                    rejected = p_values[mine] < alpha
                    share = np.bincount(number, rejected) / np.bincount(number)
                    rows.append({
                        "calibration patients": len(part), "pooled": gate.conformal.pooled,
                        "guarantee": kind, "class": c, "alpha": alpha,
                        "of hours": float(rejected.mean()),
                        "error of hours": clustered_error(rejected, patient[mine]),
                        "of patients": float(share.mean()),
                        "error of patients": float(share.std() / np.sqrt(len(share))),
                    })  # fmt: skip
                    print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {"simulated": simulated(), "real": real(arguments.data)}
    save(arguments.out, {"machine": machine(), **found})


if __name__ == "__main__":
    main()
