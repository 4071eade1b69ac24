"""Abstention on hospital A of the 2019 challenge: validity, detection, what artefacts cost.

    python benchmarks/abstention.py ../shared/data

Train 50 %, calibrate 25 %, test 25 % of the patients. The risk net is trained on the first part
and its alarm threshold is set on the second, to find 80 % of the septic patients. Corrupted
channels are judged in the hours in which the channel has a value. Artefacts are bursts of 2 to 6
hours in which heart rate, respiratory rate and lactate jump by four standard deviations and more,
in a tenth of the test stays without sepsis. The test that COMPOSER has, on the last hidden layer,
is measured beside those on inputs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from _common import machine, save

from foretell.data.clinical import Stays, UnitRepair, carry_forward, target
from foretell.data.clinical.splits import patient_hash
from foretell.data.public import physionet2019
from foretell.decisions.abstention import Gate, MondrianConformal, QualityMonitor
from foretell.decisions.alarms import AlarmPolicy, run_policy
from foretell.estimators import FeedForwardRisk
from foretell.evaluation.clinical import alarm_metrics, tune_alarms

ALPHAS = (0.02, 0.05, 0.1, 0.2)
SCORES = ("mahalanobis", "max_abs_z", "pca_residual", "knn")


def parts(stays: Stays) -> tuple[Stays, Stays, Stays]:
    place = patient_hash(stays.patients, seed=11)
    return (stays.select(place < 0.5), stays.select((place >= 0.5) & (place < 0.75)),
            stays.select(place >= 0.75))  # fmt: skip


def with_channels(stays: Stays, **changed: np.ndarray) -> Stays:
    channels = {
        n: np.array(changed.get(n, stays.column(n)), np.float32) for n in stays.schema.names
    }
    return replace(stays, begins=stays.offsets[:-1], channels=channels, label=stays.labels())


def clustered_error(rejected: np.ndarray, patient: np.ndarray) -> float:
    """Standard error of a mean over rows that come in patients."""
    _, number = np.unique(patient, return_inverse=True)
    sums, counts = np.bincount(number, rejected), np.bincount(number)
    return float(np.sqrt(((sums - rejected.mean() * counts) ** 2).sum()) / counts.sum())


def shares(name: str, p_values: np.ndarray, good: np.ndarray, label: np.ndarray,
           patient: np.ndarray) -> list[dict]:  # fmt: skip
    """Clean hours turned away, class by class, at every level."""
    rows = []
    for alpha in ALPHAS:
        for c in (0, 1):
            mine = good & (label == c)
            rejected = p_values[mine].max(1) < alpha
            error = clustered_error(rejected, patient[mine])
            # The calibration rows are as uncertain as as many patients of their own.
            bound = alpha + 2 * error * np.sqrt(2)
            rows.append({
                "score": name, "alpha": alpha, "class": c, "rejected": float(rejected.mean()),
                "bound": float(bound), "holds": bool(rejected.mean() <= bound),
            })  # fmt: skip
    return rows


def validity(gates: dict[str, Gate], test: Stays) -> list[dict]:
    wanted = target(test)
    patient = np.repeat(test.patients.astype(str), test.lengths)
    rows = []
    for score, gate in gates.items():
        said = gate.judge(test, np.zeros(test.n_rows))
        good = wanted.at_risk & ~said.quality.invalid
        rows += shares(score, said.p_values, good, wanted.label, patient)
    return rows


def published(model: FeedForwardRisk, train: Stays, calibration: Stays, test: Stays) -> list[dict]:
    """The test that COMPOSER has: nearest rows of the last hidden layer."""
    wanted, known = target(test), target(calibration)
    patient = np.repeat(test.patients.astype(str), test.lengths)
    usual = model.represent(train.select(slice(0, None, 8)), layer="last")
    inner = MondrianConformal("knn").fit(
        usual, model.represent(calibration, layer="last")[known.at_risk],
        known.label[known.at_risk],
    )  # fmt: skip
    found = inner.test(model.represent(test, layer="last")).p_values
    return shares("knn on the last hidden layer", found, wanted.at_risk, wanted.label, patient)


def corrupted(stays: Stays) -> dict[str, tuple[str, Stays]]:
    column = stays.column
    units = {n: stays.schema[n].units for n in ("Creatinine", "Lactate", "Glucose")}
    return {
        "Temp in degF": ("Temp", with_channels(stays, Temp=column("Temp") * 1.8 + 32)),
        "SpO2 stuck at 60": ("O2Sat", with_channels(
            stays, O2Sat=np.where(np.isfinite(column("O2Sat")), 60.0, np.nan))),
        "creatinine in umol/L": ("Creatinine", with_channels(
            stays, Creatinine=column("Creatinine") / units["Creatinine"]["umol/L"].factor)),
        "glucose in mmol/L": ("Glucose", with_channels(
            stays, Glucose=column("Glucose") / units["Glucose"]["mmol/L"].factor)),
        "lactate in mg/dL": ("Lactate", with_channels(
            stays, Lactate=column("Lactate") / units["Lactate"]["mg/dL"].factor)),
        "SBP and DBP swapped": ("DBP", with_channels(
            stays, SBP=column("DBP"), DBP=column("SBP"))),
    }  # fmt: skip


def detection(gates: dict[str, Gate], repair: UnitRepair, test: Stays) -> list[dict]:
    rows = []
    before = carry_forward(test, bounded=False)
    clean = {n: np.array(test.column(n)) for n in test.schema.names}
    for name, (channel, stays) in corrupted(test).items():
        there = np.isfinite(before[:, test.schema.names.index(channel)])
        row: dict = {"corruption": name, "rows": int(there.sum())}
        for score, gate in gates.items():
            said = gate.judge(stays, np.zeros(stays.n_rows))
            ood = said.p_values.max(1) < 0.05
            row[score] = float(ood[there].mean())
        row["rules or mahalanobis"] = float(
            (gates["mahalanobis"].judge(stays, np.zeros(stays.n_rows)).status[there] != 0).mean()
        )
        fixed, _ = repair.stays(stays)
        known = np.isfinite(clean[channel])
        near = np.abs(fixed.column(channel)[known] / clean[channel][known] - 1) < 0.01
        row["restored by repair"] = float(near.mean())
        rows.append(row)
    return rows


def artefacts(stays: Stays, seed: int) -> tuple[Stays, np.ndarray]:
    """Stays with bursts, and (R,) which hours lie in one or in the six hours behind it."""
    rng = np.random.default_rng(seed)
    well = np.flatnonzero(np.isnan(stays.onset))
    chosen = rng.choice(well, len(well) // 10, replace=False)
    changed = {n: np.array(stays.column(n), np.float64) for n in ("HR", "Resp", "Lactate")}
    spread = {n: (np.nanmean(v), np.nanstd(v)) for n, v in changed.items()}
    inside = np.zeros(stays.n_rows, bool)
    for i in chosen:
        length = int(rng.integers(2, 7))
        begin = int(stays.offsets[i] + rng.integers(0, max(1, stays.lengths[i] - length)))
        end = min(begin + length, int(stays.offsets[i + 1]))
        for name, (mean, std) in spread.items():
            high = mean + std * (4 + rng.exponential(0.5, end - begin))
            changed[name][begin:end] = np.minimum(high, stays.schema[name].possible[1])
        inside[begin : min(end + 6, int(stays.offsets[i + 1]))] = True
    return with_channels(stays, **changed), inside


def contamination(model, gate, calibration, test, seed: int) -> dict:
    scores = model.predict_proba(calibration)[:, 1]
    tuned = tune_alarms(AlarmPolicy(0.5), calibration, scores, target_sensitivity=0.8)
    policy = tuned.require()
    stays, inside = artefacts(test, seed)
    scores = model.predict_proba(stays)[:, 1]
    said = gate.judge(stays, scores)
    clean = run_policy(policy, model.predict_proba(test)[:, 1], test.lengths).raised
    ungated = run_policy(policy, scores, stays.lengths).raised
    gated = run_policy(policy, np.nan_to_num(said.score), stays.lengths, issued=said.issued).raised
    # Alarms that the artefacts caused: in or right behind a burst, and not there without it.
    caused = {"ungated": ungated & inside & ~clean, "gated": gated & inside & ~clean}
    metrics = {
        "ungated": alarm_metrics(stays, ungated).values(),
        "gated": alarm_metrics(stays, gated, predicted=said.issued).values(),
    }
    true = {k: alarm_metrics(stays, a).counts[:, 5].sum() for k, a in
            (("ungated", ungated), ("gated", gated))}  # fmt: skip
    # At the sensitivity that the gated policy reaches, how many false alarms has each?
    reached = metrics["gated"]["patient_sensitivity"]
    matched = tune_alarms(AlarmPolicy(0.5), stays, scores, target_sensitivity=reached)
    return {
        "seed": seed,
        "threshold": policy.tiers[0].threshold,
        "caused_ungated": int(caused["ungated"].sum()),
        "caused_gated": int(caused["gated"].sum()),
        "caused_removed": 1 - float(caused["gated"].sum() / max(caused["ungated"].sum(), 1)),
        "true_alarms_lost": 1 - float(true["gated"] / true["ungated"]),
        "found_patients_ungated": metrics["ungated"]["patient_sensitivity"],
        "found_patients_gated": reached,
        "faph_ungated_at_matched_sensitivity":
            matched.metrics.values()["false_alarms_per_patient_hour"],
        "faph_ungated": metrics["ungated"]["false_alarms_per_patient_hour"],
        "faph_gated": metrics["gated"]["false_alarms_per_patient_hour"],
        "abstained": float((~said.issued).mean()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    both = physionet2019(arguments.data / "physionet2019_sepsis").by("hospital")
    train, calibration, test = parts(both["A"])
    repair = UnitRepair.fit(train)
    print(f"train {train}\ncalibration {calibration}\ntest {test}")

    gates = {
        s: Gate(conformal=MondrianConformal(s, alpha=0.05), max_rows=40_000).fit(train, calibration)
        for s in SCORES
    }
    pl.Config.set_tbl_rows(60)
    pl.Config.set_tbl_cols(20)
    pl.Config.set_tbl_width_chars(160)
    valid = validity(gates, test)
    print(pl.DataFrame(valid), flush=True)
    found = detection(gates, repair, test)
    print(pl.DataFrame(found), flush=True)
    repairs = {h: repair.stays(s, by="hospital")[1].to_dicts() for h, s in both.items()}
    counts = {h: sum(r["repaired"] for r in rows) for h, rows in repairs.items()}
    print("values repaired on clean data:", counts)
    burst, hidden = [], []
    for seed in arguments.seeds:
        model = FeedForwardRisk(random_state=seed, hidden=(256, 64), epochs=2)
        model.fit(train, validation=calibration.select(slice(0, None, 3)))
        burst.append(contamination(model, gates["mahalanobis"], calibration, test, seed))
        print(burst[-1], flush=True)
        hidden += [{"seed": seed, **r} for r in published(model, train, calibration, test)]
        print(pl.DataFrame(hidden[-8:]), flush=True)
    rules = QualityMonitor(train.schema).check(test).to_polars().to_dicts()
    found_all = {
        "validity": valid, "detection": found, "repairs": repairs, "artefacts": burst,
        "hidden_layer": hidden,
    }  # fmt: skip
    save(arguments.out, {"machine": machine("torch"), **found_all, "rules": rules})


if __name__ == "__main__":
    main()
