"""Active sensing: how much of what all panels tell do the first few tell, if chosen well?

    python benchmarks/sensing.py ../shared/data

Simulated patients, whose exact gains are known, and 8,000 stays of the 2012 challenge (trained on
set a, judged on set b): death in hospital from age, sex, unit and vital signs, with nine panels
that may be revealed one after the other. Log loss in nats. On records only panels that were
measured can be revealed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from _common import machine, save
from sklearn.metrics import log_loss, roc_auc_score

from foretell.data.clinical import CausalFeatureBuilder, FeatureSpec, Stays
from foretell.data.public import physionet2012
from foretell.data.simulators.panels import (
    COSTS,
    N_CONTEXT,
    context_of,
    exact_gain,
    panel_patients,
    panel_risk,
)
from foretell.decisions.sensing import CAVEAT, EIGSensing, Panel, SensingPolicy, reveal
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


def simulated(seed: int, budget: int = 3) -> dict[str, Any]:
    train, test = panel_patients(20_000, seed=seed), panel_patients(6_000, seed=seed + 1000)
    panels = [Panel(f"p{j + 1}", (N_CONTEXT + j,), COSTS[j]) for j in range(6)]
    full = np.ones((len(test.label), 9), bool)
    start = full.copy()
    start[:, N_CONTEXT:] = False
    model = SubsetRisk([[N_CONTEXT + j] for j in range(6)], random_state=seed, threads=1)
    model.fit(train.values, np.ones((len(train.label), 9), bool), train.label)
    learned = EIGSensing(model.predict_members, panels)
    learned.fit(train.values[:5000], np.ones((5000, 9), bool))

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
    first = None
    for name, sensing, fixed, policy in (
        ("random", learned, None, None),
        ("fixed order", learned, order, None),
        ("learned gain / cost", learned, None, SensingPolicy(learned)),
        ("exact gain / cost", exact, None, SensingPolicy(exact)),
    ):
        steps = reveal(fixed, sensing, test.values, start, full, budget=budget, policy=policy)
        rows[name] = [
            float(log_loss(test.label, model.predict_proba(test.values, s)[:, 1])) for s in steps
        ]
        rows[f"{name}, true risk"] = [
            float(log_loss(test.label, panel_risk(test.values, s))) for s in steps
        ]
        if name.startswith("learned"):
            first = steps
    assert first is not None
    asked = first[2][:, N_CONTEXT:].sum(0)
    firsts = []
    for subtype in range(1, 5):
        values = np.zeros(9)
        values[:3] = context_of(subtype)
        found = SensingPolicy(learned).recommend(values, start[0])
        firsts.append(found[0].panel if found else None)
    closed = {
        str(b): (rows["fixed order"][b] - rows["learned gain / cost"][b])
        / (rows["fixed order"][b] - rows["exact gain / cost"][b])
        for b in (1, 2)
    }
    frequency = []
    gains = learned.gains(test.values[:2000], start[:2000])
    for cost in (0.5, 1.0, 2.0, 4.0):
        costs = np.array([cost, *COSTS[1:]])
        frequency.append(int(((gains / costs).argmax(1) == 0).sum()))
    print(table(rows), "gap closed", closed, "panel 6 asked", asked[5] / asked.sum(), firsts)
    return {
        "seed": seed, "log_loss": rows, "gap_closed": closed,
        "share_of_panel_6": float(asked[5] / asked.sum()), "first_for_subtypes": firsts,
        "panel_1_asked_by_cost": frequency,
    }  # fmt: skip


def features(stays: Stays) -> tuple[np.ndarray, list[str]]:
    """One row a stay: last, lowest, highest of 48 hours, and who they are."""
    spec = FeatureSpec(blocks=("last", "min", "max"), static=("age", "sex"), extreme_hours=48)
    builder = CausalFeatureBuilder(spec, schema=stays.schema)
    rows = stays.offsets[1:] - 1
    values = builder.raw(stays, rows).astype(np.float64)
    units = stays.names("unit")
    flags = np.stack([(units == u).astype(float) for u in ("CCU", "CSRU", "MICU", "SICU")], 1)
    return np.concatenate([values, flags], 1), [*builder.names, "CCU", "CSRU", "MICU", "SICU"]


def records(root: Path, seed: int, budget: int = 3) -> dict[str, Any]:
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
    (X, S, y), (Xt, St, yt) = ((x[:, kept], s[:, kept], died) for x, s, died in parts.values())
    X, Xt = np.where(S, X, 0.0), np.where(St, Xt, 0.0)
    open_at_start = np.zeros(len(kept), bool)
    open_at_start[[at[i] for i in context]] = True
    model = SubsetRisk([p.features for p in panels], random_state=seed, threads=1,
                       max_steps=1200, weight_decay=0.3, learning_rate=1e-3)  # fmt: skip
    model.fit(X, S, y)
    sensing = EIGSensing(model.predict_members, panels).fit(X, S)
    start, start_train = St & open_at_start, S & open_at_start
    order = best_order(model, panels, X, start_train, S, y, budget)
    rows: dict[str, list[float]] = {}
    for name, fixed, policy in (
        ("random", None, None),
        ("fixed order", order, None),
        ("gain / cost", None, SensingPolicy(sensing)),
    ):
        steps = reveal(fixed, sensing, Xt, start, St, budget=budget, policy=policy, seed=seed)
        rows[name] = [float(log_loss(yt, model.predict_proba(Xt, s)[:, 1])) for s in steps]
    p = model.predict_proba(Xt, St)[:, 1]
    none, everything = rows["random"][0], float(log_loss(yt, p))
    realised = {n: [(none - v) / (none - everything) for v in values] for n, values in rows.items()}
    print(table(rows), f"all {everything:.4f}",
          {n: [round(v, 3) for v in values] for n, values in realised.items()})  # fmt: skip
    return {
        "seed": seed, "log_loss": rows, "all": everything, "realised": realised,
        "auroc_none": float(roc_auc_score(yt, model.predict_proba(Xt, start)[:, 1])),
        "auroc_all": float(roc_auc_score(yt, p)), "order": [panels[j].name for j in order],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    content = {
        "machine": machine("torch"),
        "simulated": [simulated(seed) for seed in arguments.seeds],
        "physionet2012": [records(arguments.data, seed) for seed in arguments.seeds],
        "caveat": CAVEAT,
    }
    save(arguments.out, content)


if __name__ == "__main__":
    main()
