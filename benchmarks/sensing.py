"""Active sensing: how much of what all panels tell do the first few tell, if chosen well?

    python benchmarks/sensing.py ../shared/data --out benchmarks/results/sensing.json
    python benchmarks/sensing.py ../shared/data --part p19 --out benchmarks/results/sensing.json

Simulated patients, whose exact gains are known, and 8,000 stays of the 2012 challenge (trained on
set a, judged on set b): death in hospital from age, sex, unit and vital signs, with nine panels
that may be revealed one after the other. The part ``samplers`` repeats both with every sampler, two
panels and fewer simulated patients, and tells what fitting and asking each cost. Then hours of
hospital A of the 2019 challenge in which five panels or more came: an onset of sepsis within 12
hours from who the patient is and the vital signs. Log loss in nats. On records only panels that
were measured can be revealed. Parts that are not asked for stay in the file as they are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from _common import machine, save
from sklearn.metrics import log_loss, roc_auc_score

from foretell.data.clinical import (
    CausalFeatureBuilder,
    FeatureSpec,
    Stays,
    carry_forward,
    split_by_patient,
    target,
)
from foretell.data.public import physionet2012, physionet2019
from foretell.data.simulators.panels import (
    COSTS,
    N_CONTEXT,
    context_of,
    exact_gain,
    panel_patients,
    panel_risk,
)
from foretell.decisions.sensing import (
    CAVEAT,
    SAMPLERS,
    EIGSensing,
    Panel,
    SensingPolicy,
    reveal,
)
from foretell.estimators.risk import SubsetRisk

P12_PANELS = {
    "GCS": ("GCS",),
    "renal": ("BUN", "Creatinine"),
    "gas": ("pH", "PaCO2", "PaO2", "FiO2", "SaO2"),
    "lactate": ("Lactate",),
    "cbc": ("Hct", "WBC", "Platelets"),
    "electrolytes": ("Sodium", "Potassium", "Magnesium", "HCO3"),
    "liver": ("ALT", "AST", "Alkalinephos", "Bilirubin_total", "Albumin"),
    "glucose": ("Glucose",),
    "urine": ("Urine",),
}
CONTEXT = ("HR", "SBP", "MAP", "Resp", "Temp")
P19_PANELS = {
    "gas": ("pH", "PaCO2", "SaO2", "BaseExcess", "FiO2"),
    "lactate": ("Lactate",),
    "cbc": ("Hct", "Hgb", "WBC", "Platelets"),
    "renal": ("BUN", "Creatinine"),
    "electrolytes": ("Potassium", "Chloride", "HCO3", "Magnesium", "Phosphate", "Calcium"),
    "glucose": ("Glucose",),
    "liver": ("AST", "Alkalinephos", "Bilirubin_total", "Bilirubin_direct"),
    "coagulation": ("PTT", "Fibrinogen"),
    "troponin": ("TroponinI",),
}
P19_VITALS = ("HR", "SBP", "MAP", "DBP", "Resp", "Temp", "O2Sat")
P19_HOURS, P19_LEAST = 12.0, 5
ASKED = 1000
"""Patients by whom a recommendation is timed."""
DONORS = 5000
"""Training patients from whom a sampler learns, at most."""
OPTIONS: dict[str, dict[str, int]] = {"vae": {"threads": 1}, "gaussian": {"iterations": 25}}
"""Of samplers; EM of the Gaussian visits each pattern of missing values in every iteration."""


def best_order(model: Any, panels: list[Panel], values: np.ndarray, start: np.ndarray,
               record: np.ndarray, label: np.ndarray, budget: int) -> np.ndarray:  # fmt: skip
    """The greedy fixed order: each next panel is the one that lowers the training loss most."""
    seen, order = start.copy(), []
    while len(order) < budget:
        losses = {}
        for j, panel in enumerate(panels):
            if j not in order:
                tried = seen.copy()
                tried[:, panel.features] = record[:, panel.features]
                losses[j] = log_loss(label, model.predict_proba(values, tried)[:, 1])
        order.append(min(losses, key=lambda j: losses[j]))
        seen[:, panels[order[-1]].features] = record[:, panels[order[-1]].features]
    return np.array([*order, *(j for j in range(len(panels)) if j not in order)])


def table(rows: dict[str, list[float]]) -> pl.DataFrame:
    budgets = range(len(next(iter(rows.values()))))
    columns = {str(b): [values[b] for values in rows.values()] for b in budgets}
    return pl.DataFrame({"policy": list(rows), **columns})


def asking(sensing: EIGSensing, values: np.ndarray, seen: np.ndarray) -> float:
    """Milliseconds of a core for all gains of one patient."""
    began = time.process_time()
    sensing.gains(values[:ASKED], seen[:ASKED])
    return (time.process_time() - began) / min(ASKED, len(values)) * 1000


def fitted(
    model: SubsetRisk, panels: list[Panel], name: str, values: np.ndarray, seen: np.ndarray
) -> tuple[EIGSensing, float]:
    """Sensing with a sampler, and the seconds of a core that fitting it took."""
    if len(values) > DONORS:
        rows = np.random.default_rng(0).choice(len(values), DONORS, replace=False)
        values, seen = values[rows], seen[rows]
    sensing = EIGSensing(model.predict_members, panels, sampler=name)
    began = time.process_time()
    sensing.fit(values, seen, **OPTIONS.get(name, {}))
    return sensing, time.process_time() - began


def simulated(
    seed: int, budget: int = 3, samplers: tuple[str, ...] = ("knn",), patients: int = 6000
) -> dict[str, Any]:
    train, test = panel_patients(20_000, seed=seed), panel_patients(patients, seed=seed + 1000)
    panels = [Panel(f"p{j + 1}", (N_CONTEXT + j,), COSTS[j]) for j in range(6)]
    full = np.ones((len(test.label), 9), bool)
    start = full.copy()
    start[:, N_CONTEXT:] = False
    model = SubsetRisk([[N_CONTEXT + j] for j in range(6)], random_state=seed, threads=1)
    model.fit(train.values, np.ones((len(train.label), 9), bool), train.label)

    class Exact:
        def __init__(self) -> None:
            self.panels = tuple(panels)

        def gains(self, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
            return exact_gain(values, seen, draws=300)

        def risk(self, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
            return panel_risk(values, seen)

    exact = Exact()
    order = best_order(model, panels, train.values[:4000], start[:1].repeat(4000, 0),
                       np.ones((4000, 9), bool), train.label[:4000], budget)  # fmt: skip
    rows: dict[str, list[float]] = {}

    def played(name: str, fixed: np.ndarray | None, policy: SensingPolicy | None) -> np.ndarray:
        """Keeps the losses; which panels the first two steps asked for."""
        sensing = exact if policy is None else policy.sensing
        steps = reveal(fixed, sensing, test.values, start, full, budget=budget, policy=policy)
        rows[name] = [
            float(log_loss(test.label, model.predict_proba(test.values, s)[:, 1])) for s in steps
        ]
        rows[f"{name}, true risk"] = [
            float(log_loss(test.label, panel_risk(test.values, s))) for s in steps
        ]
        return steps[2][:, N_CONTEXT:].sum(0)

    played("random", None, None)
    played("fixed order", order, None)
    played("exact gain / cost", None, SensingPolicy(exact))
    found: dict[str, Any] = {}
    for name in samplers:
        learned, seconds = fitted(
            model, panels, name, train.values[:5000], np.ones((5000, 9), bool)
        )
        row = "learned gain / cost" if name == "knn" else f"learned gain / cost, {name}"
        asked = played(row, None, SensingPolicy(learned))
        gains = learned.gains(test.values[:2000], start[:2000])
        frequency = [
            int(((gains / np.array([cost, *COSTS[1:]])).argmax(1) == 0).sum())
            for cost in (0.5, 1.0, 2.0, 4.0)
        ]
        firsts = []
        for subtype in range(1, 5):
            values = np.zeros(9)
            values[:3] = context_of(subtype)
            wanted = SensingPolicy(learned).recommend(values, start[0])
            firsts.append(wanted[0].panel if wanted else None)
        found[name] = {
            "gap_closed": {
                str(b): (rows["fixed order"][b] - rows[row][b])
                / (rows["fixed order"][b] - rows["exact gain / cost"][b])
                for b in (1, 2)
            },
            "share_of_panel_6": float(asked[5] / asked.sum()),
            "first_for_subtypes": firsts,
            "panel_1_asked_by_cost": frequency,
            "fit_seconds": seconds,
            "milliseconds_a_patient": asking(learned, test.values, start),
        }
        print(name, found[name], flush=True)
    print(table(rows), flush=True)
    told = found["knn"] if samplers == ("knn",) else {"patients": patients, "samplers": found}
    return {"seed": seed, "log_loss": rows, **told}


def features(stays: Stays) -> tuple[np.ndarray, list[str]]:
    """One row a stay: last, lowest, highest of 48 hours, and who they are."""
    spec = FeatureSpec(blocks=("last", "min", "max"), static=("age", "sex"), extreme_hours=48)
    builder = CausalFeatureBuilder(spec, schema=stays.schema)
    rows = stays.offsets[1:] - 1
    values = builder.raw(stays, rows).astype(np.float64)
    units = stays.names("unit")
    flags = np.stack([(units == u).astype(float) for u in ("CCU", "CSRU", "MICU", "SICU")], 1)
    return np.concatenate([values, flags], 1), [*builder.names, "CCU", "CSRU", "MICU", "SICU"]


def records(
    root: Path, seed: int, budget: int = 3, samplers: tuple[str, ...] = ("knn",)
) -> dict[str, Any]:
    """The 2012 challenge: set a to train on, set b to judge on."""
    parts = {}
    for name in "ab":
        stays = physionet2012(root / "physionet2012_icu", sets=(name,))
        X, names = features(stays)
        parts[name] = (X, np.isfinite(X), stays.number("died").astype(int))
    panels = []
    for name, channels in P12_PANELS.items():
        columns = [i for i, n in enumerate(names) if n.partition(":")[0] in channels]
        panels.append(Panel(name, tuple(columns), 1.0))
    context = [i for i, n in enumerate(names)
               if n.partition(":")[0] in CONTEXT or ":" not in n]  # fmt: skip
    kept = sorted({*context, *(i for p in panels for i in p.features)})
    at = {column: i for i, column in enumerate(kept)}
    panels = [Panel(p.name, tuple(at[i] for i in p.features), p.cost) for p in panels]
    train, test = ((x[:, kept], s[:, kept], died) for x, s, died in parts.values())
    open_at_start = np.zeros(len(kept), bool)
    open_at_start[[at[i] for i in context]] = True
    return revealed(panels, train, test, open_at_start, seed, samplers, budget)


def hours(root: Path, seed: int) -> dict[str, Any]:
    """Hospital A of the 2019 challenge: a lab counts in the hour in which it came, only."""
    stays = physionet2019(root / "physionet2019_sepsis", hospitals=("A",))
    split = split_by_patient(stays, test_size=0.2, validation_size=0.2, seed=seed)
    channels = list(stays.schema.names)
    labs = [c for mine in P19_PANELS.values() for c in mine]
    panels, at = [], 0
    for name, mine in P19_PANELS.items():
        panels.append(Panel(name, tuple(range(at, at + len(mine))), 1.0))
        at += len(mine)

    def rows(part: Stays) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        wanted, owner = target(part, P19_HOURS), part.stay_of_row()
        now = part.matrix()[:, [channels.index(c) for c in labs]]
        came = np.stack([np.isfinite(now[:, p.features]).any(1) for p in panels], 1).sum(1)
        mine = wanted.at_risk & (came >= P19_LEAST)
        vitals = carry_forward(part)[:, [channels.index(c) for c in P19_VITALS]]
        male = (part.names("sex") == "male").astype(float)
        units = [(part.names("unit") == u).astype(float) for u in ("MICU", "SICU")]
        static = np.stack([part.number("age"), male, *units], 1)[owner]
        X = np.concatenate([now, vitals, static, part.hours()[:, None]], 1)[mine]
        return X, np.isfinite(X), wanted.label[mine].astype(int), len(np.unique(owner[mine]))

    *train, _ = rows(split.train)
    *test, patients = rows(split.test)
    open_at_start = np.ones(train[0].shape[1], bool)
    open_at_start[:at] = False
    found = revealed(panels, tuple(train), tuple(test), open_at_start, seed, ("knn",))
    return {"train_rows": len(train[0]), "test_rows": len(test[0]), "test_stays": patients,
            "positive": float(np.mean(test[2])), **found}  # fmt: skip


def revealed(
    panels: list[Panel], train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...],
    open_at_start: np.ndarray, seed: int, samplers: tuple[str, ...], budget: int = 3,
) -> dict[str, Any]:  # fmt: skip
    """Trains on values, masks and labels, and reveals panels of the test part."""
    (X, S, y), (Xt, St, yt) = train, test
    X, Xt = np.where(S, X, 0.0), np.where(St, Xt, 0.0)
    model = SubsetRisk([p.features for p in panels], random_state=seed, threads=1,
                       max_steps=1200, weight_decay=0.3, learning_rate=1e-3)  # fmt: skip
    model.fit(X, S, y)
    start, start_train = St & open_at_start, S & open_at_start
    order = best_order(model, panels, X, start_train, S, y, budget)
    rows: dict[str, list[float]] = {}
    areas: dict[str, list[float]] = {}
    costs: dict[str, dict[str, float]] = {}

    def played(name: str, sensing: EIGSensing, fixed: np.ndarray | None, ranked: bool) -> None:
        policy = SensingPolicy(sensing) if ranked else None
        steps = reveal(fixed, sensing, Xt, start, St, budget=budget, policy=policy, seed=seed)
        risks = [model.predict_proba(Xt, s)[:, 1] for s in steps]
        rows[name] = [float(log_loss(yt, p)) for p in risks]
        areas[name] = [float(roc_auc_score(yt, p)) for p in risks]

    for name in samplers:
        sensing, seconds = fitted(model, panels, name, X, S)
        if not rows:
            played("random", sensing, None, False)
            played("fixed order", sensing, order, False)
        played("gain / cost" if name == "knn" else f"gain / cost, {name}", sensing, None, True)
        costs[name] = {"fit_seconds": seconds,
                       "milliseconds_a_patient": asking(sensing, Xt, start)}  # fmt: skip
        print(name, costs[name], flush=True)
    p = model.predict_proba(Xt, St)[:, 1]
    none, everything = rows["random"][0], float(log_loss(yt, p))
    realised = {n: [(none - v) / (none - everything) for v in values] for n, values in rows.items()}
    rate = float(np.mean(y))
    told = {n: [round(v, 3) for v in values] for n, values in realised.items()}
    print(table(rows), f"all {everything:.4f}", told, flush=True)
    return {
        "seed": seed, "log_loss": rows, "all": everything, "realised": realised, "auroc": areas,
        "auroc_none": areas["random"][0], "auroc_all": float(roc_auc_score(yt, p)),
        "log_loss_of_the_rate": float(log_loss(yt, np.full(len(yt), rate))),
        "order": [panels[j].name for j in order], "samplers": costs,
    }  # fmt: skip


def every_sampler(root: Path, seed: int) -> dict[str, Any]:
    names = tuple(SAMPLERS)
    return {
        "seed": seed,
        "simulated": simulated(seed, 2, names, 2000),
        "physionet2012": records(root, seed, 2, names),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", choices=("simulated", "p12", "p19", "samplers"), action="append")
    arguments = parser.parse_args()
    parts: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
        "simulated": ("simulated", simulated),
        "p12": ("physionet2012", lambda seed: records(arguments.data, seed)),
        "p19": ("physionet2019", lambda seed: hours(arguments.data, seed)),
        "samplers": ("samplers", lambda seed: every_sampler(arguments.data, seed)),
    }
    content: dict[str, Any] = {}
    if arguments.out is not None and arguments.out.is_file():
        content = json.loads(arguments.out.read_text())
    content |= {"machine": machine("torch"), "caveat": CAVEAT}
    for part in arguments.part or parts:
        name, measure = parts[part]
        content[name] = [measure(seed) for seed in arguments.seeds]
        save(arguments.out, content)


if __name__ == "__main__":
    main()
