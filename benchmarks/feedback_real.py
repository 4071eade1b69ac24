"""Late labels on real data: what correcting them is worth, with bootstrap intervals.

Starbucks offers (trained a day or two after a wave of offers, tested on a later wave), hotel
bookings (trained at a date, tested on the bookings of the next four weeks) and, as a smoke test of
the whole way, coupons of Complete Journey. Every required relation is printed with PASS or FAIL.

    python benchmarks/feedback_real.py ../shared/data --out benchmarks/results/feedback_real.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

from _common import machine, table
from sklearn.ensemble import HistGradientBoostingClassifier

from foretell.data.public.feedback import completejourney, hotel_bookings, starbucks
from foretell.evaluation.feedback.snapshot_protocols import (
    BOOKING_DATES,
    OFFER_CASES,
    StudyProtocol,
    bookings_protocol,
    coupons_protocol,
    offers_protocol,
)
from foretell.evaluation.feedback.snapshot_study import (
    SnapshotStudy,
    snapshot_methods,
    snapshot_study,
)

CORRECTED = ("soft", "soft+engagement", "fsiw", "funnel-plain", "funnel", "average")


def trees(iterations: int, leaves: int, least: int, rate: float) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=iterations, learning_rate=rate, max_leaf_nodes=leaves, min_samples_leaf=least
    )


def run(protocol: StudyProtocol, methods: dict, seeds: int, resamples: int) -> SnapshotStudy:
    with warnings.catch_warnings():
        warnings.simplefilter("once")
        return snapshot_study(
            protocol.log,
            protocol.snapshots,
            methods,
            seeds=range(seeds),
            clusters=protocol.clusters,
            resamples=resamples,
            progress=lambda text: print(f"  {text}", end="\r", flush=True),
        )


def show(study: SnapshotStudy, title: str) -> None:
    print(f"\n## {title}\n")
    groups = study.intervals["group"].unique(maintain_order=True).to_list()
    methods = study.scores["method"].unique(maintain_order=True).to_list()

    def cell(group: str, method: str, metric: str, versus: str | None = None) -> str:
        try:
            value, low, high = study.interval(method, metric, group, versus)
        except ValueError:
            return "-"
        if value != value:
            return "-"
        sign = "+" if versus is not None else ""
        return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"

    for group in groups:
        rows = []
        for method in methods:
            row = {"method": method}
            row |= {metric: cell(group, method, metric) for metric in ("nll", "auc", "ratio")}
            row["gap closed"] = cell(group, method, "gap_closed")
            row["NLL - history"] = cell(group, method, "nll", "history")
            row["AUC - FSIW"] = cell(group, method, "auc", "fsiw")
            rows.append(row)
        columns = ["method", "nll", "auc", "ratio", "gap closed", "NLL - history", "AUC - FSIW"]
        print(f"{group}\n\n{table(rows, columns)}\n", flush=True)


class Checks:
    """Required relations and whether they hold."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def need(self, what: str, value: float, relation: str, bound: float) -> None:
        held = value <= bound if relation == "<=" else value >= bound
        if relation == "<":
            held = value < bound
        self.rows.append(
            {"required": what, "value": round(value, 4), "relation": relation,
             "bound": round(bound, 4), "result": "PASS" if held else "FAIL"}
        )  # fmt: skip


def check_offers(study: SnapshotStudy, checks: Checks) -> None:
    for group in study.intervals["group"].unique(maintain_order=True).to_list():
        if group == "all" and study.scores["snapshot"].n_unique() > 1:
            continue

        def score(method: str, metric: str = "nll", group: str = group) -> float:
            return study.estimate(method, metric, group)

        for name in ("funnel", "funnel-plain"):
            # The bounds are stated for 48 h; after 24 h the oracle's part of the gap is larger.
            if "48 h" in group or group == "all" or name == "funnel":
                checks.need(f"{group}: NLL {name}", score(name), "<=", 0.53)
                checks.need(f"{group}: gap closed, {name}", score(name, "gap_closed"), ">=", 0.85)
            checks.need(
                f"{group}: AUC {name}", score(name, "auc"), ">=", score("fsiw", "auc") + 0.004
            )
        checks.need(f"{group}: NLL soft+engagement", score("soft+engagement"), "<=", score("soft"))
        for method in CORRECTED:
            checks.need(f"{group}: NLL {method} < history", score(method), "<", score("history"))


def check_bookings(study: SnapshotStudy, checks: Checks) -> None:
    for method in ("soft", "fsiw", "fsiw+soft"):
        for other in ("naive", "history"):
            value, _, high = study.interval(method, "nll", "all", other)
            checks.need(f"bookings: NLL {method} - {other}", value, "<", 0.0)
            checks.need(f"bookings: its upper bound, {method} - {other}", high, "<", 0.0)


def compact(study: dict) -> dict:
    """Scores and the intervals of the tables above, at five digits and as rows of values."""

    def short(value: object) -> object:
        if isinstance(value, float):
            return None if value != value else float(f"{value:.5g}")
        return value

    shown = [
        row
        for row in study["intervals"]
        if row["versus"] is None
        or (row["versus"] in ("naive", "history") and row["metric"] == "nll")
        or (row["versus"] == "fsiw" and row["metric"] == "auc")
    ]
    tables = {}
    for name, rows in (("scores", study["scores"]), ("intervals", shown)):
        columns = [key for key in rows[0] if key not in ("mean_p", "n")]
        values = [[short(row[key]) for key in columns] for row in rows]
        tables[name] = {"columns": columns, "rows": values}
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--only", choices=("offers", "offers-all", "bookings", "coupons"), nargs="*"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--booking-seeds", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--cases", type=int, default=len(OFFER_CASES), help="first cases of offers")
    parser.add_argument("--dates", nargs="*", default=list(BOOKING_DATES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wanted = options.only or ["offers", "offers-all", "bookings", "coupons"]
    checks, results = Checks(), {}
    for name in wanted:
        begin = time.process_time()
        if name.startswith("offers"):
            estimator = trees(50, 8, 60, 0.12)
            strict = name == "offers"
            protocol = offers_protocol(
                starbucks(options.data / "starbucks_offers"),
                OFFER_CASES[: options.cases] if strict else OFFER_CASES[:1],
                history_wave=0.0 if strict else None,
            )
            methods = snapshot_methods(
                estimator, engagement=protocol.engagement, auxiliary=estimator
            )
            seeds = options.seeds
        elif name == "bookings":
            estimator = trees(100, 16, 40, 0.1).set_params(early_stopping=False)
            protocol = bookings_protocol(
                hotel_bookings(options.data / "hotel_bookings"), options.dates
            )
            methods = snapshot_methods(estimator)
            blend = methods["fsiw"].get_params(deep=False) | {
                "method": "average", "average": ("fsiw", "soft"),
            }  # fmt: skip
            oracle = methods.pop("oracle")
            methods |= {"fsiw+soft": type(oracle)(**blend), "oracle": oracle}
            seeds = options.booking_seeds
        else:
            estimator = trees(50, 8, 40, 0.08).set_params(early_stopping=False)
            protocol = coupons_protocol(completejourney(options.data / "completejourney"))
            methods = snapshot_methods(estimator, engagement=protocol.engagement)
            seeds = options.seeds
        study = run(protocol, methods, seeds, options.resamples)
        titles = {
            "offers": "Starbucks offers, delays from the wave at hour 0",
            "offers-all": "Starbucks offers, delays from all that has matured",
            "bookings": "Hotel bookings",
            "coupons": "Complete Journey coupons (smoke test, too few redemptions to rank)",
        }
        show(study, titles[name])
        if name == "offers":
            check_offers(study, checks)
        if name == "bookings":
            check_bookings(study, checks)
        results[name] = {
            **compact(json.loads(study.to_json())),
            "entities": len(protocol.log),
            "seeds": seeds,
            "cpu_seconds": round(time.process_time() - begin, 1),
        }
    if checks.rows:
        print("## Required relations\n")
        print(table(checks.rows, ["required", "value", "relation", "bound", "result"]))
    content = {
        "machine": machine("scikit-learn", "numpy"), "checks": checks.rows, "studies": results,
    }  # fmt: skip
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, separators=(",", ":"))
        options.out.write_text(text.replace("],[", "],\n[").replace("},{", "},\n{") + "\n")


if __name__ == "__main__":
    main()
