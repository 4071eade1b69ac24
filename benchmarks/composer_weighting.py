"""Hours since a measurement: as features, as COMPOSER's fading weights, or not at all.

    python benchmarks/composer_weighting.py --out benchmarks/results/composer_weighting.json

One feed-forward net each, trained at one hospital of the 2019 challenge and judged at it and at the
other, by the 4-hour AUROC of hours before the onset. No piecewise-linear encoding in any of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _common import machine

from foretell.data import registry
from foretell.data.clinical import split_by_patient, target
from foretell.estimators import FeedForwardRisk
from foretell.evaluation.clinical import ranking_metrics

WAYS = {"hours as features": "feature", "fading weights": "weight", "neither": "drop"}


def main() -> None:
    """Trains and judges all three, one seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train", default="A", choices=("A", "B"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--stays", type=int, default=8000, help="training stays, by hash")
    parser.add_argument("--judged", type=int, default=4000, help="test stays of each hospital")
    options = parser.parse_args()
    stays = registry.load("physionet2019", form="stays")
    split = split_by_patient(stays, test_size=0.3, validation_size=0.1)
    train = split.train.of("hospital", options.train).select(slice(0, options.stays))
    validation = split.validation.of("hospital", options.train).select(slice(0, options.judged))
    rows = []
    for name, how in WAYS.items():
        model = FeedForwardRisk(
            n_knots=0, time_since=how, max_steps=options.steps, hidden=(128, 32),
            validate_every=100, threads=1,
        )  # fmt: skip
        model.fit(train, validation=validation)
        row: dict[str, object] = {"inputs": name, "trained_at": options.train}
        for hospital in ("A", "B"):
            test = split.test.of("hospital", hospital).select(slice(0, options.judged))
            wanted = target(test, 4)
            found = ranking_metrics(
                model.predict_proba(test)[:, 1], wanted.label, test.stay_of_row(),
                rows=wanted.at_risk, resamples=100,
            ).auroc  # fmt: skip
            row[hospital] = [float(found.estimate), float(found.lower), float(found.upper)]
        rows.append(row)
        print(row, flush=True)
    if options.out is not None:
        settings = {k: str(v) for k, v in vars(options).items()}
        document = {"machine": machine(), "settings": settings, "rows": rows}
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
