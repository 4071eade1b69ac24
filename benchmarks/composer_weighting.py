"""Hours since a measurement: as features, as COMPOSER's fading weights, or not at all.

    python benchmarks/composer_weighting.py --out benchmarks/results/composer_weighting.json

One feed-forward net each, trained at one hospital of the 2019 challenge and judged at it and at the
other, both ways round, by the 4-hour AUROC of hours before the onset. No piecewise-linear encoding
in any of them. Patients are split 70/30 by hash; a seventh of the 70 % is kept to stop by.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _common import machine, save

from foretell.data import registry
from foretell.data.clinical import CausalFeatureBuilder, Stays, split_by_patient, target
from foretell.estimators import FeedForwardRisk
from foretell.evaluation.clinical import ranking_metrics

WAYS = {"hours as features": "feature", "fading weights": "weight", "neither": "drop"}


def ageing(model: FeedForwardRisk, stays: Stays, hours: int = 48) -> dict[str, float]:
    """What the weighting is for: with all else as it is, values grow old and the score fades.

    From the last hour of every stay all measurements age for ``hours`` hours. Distances are those
    of log-odds from a patient whose values are all the mean, in the median of stays.
    """
    builder = model.features_
    assert isinstance(builder, CausalFeatureBuilder)
    x = builder.transform(stays)[stays.offsets[1:] - 1]
    last, since = builder.columns(block="last"), builder.columns(block="since")
    mean = x.copy()
    mean[:, last] = 0
    middle = model.decision_function(mean)
    gaps = []
    for more in range(hours + 1):
        old = x.copy()
        ago = np.expm1(x[:, since] * np.log1p(200)) + more
        old[:, since] = np.log1p(np.minimum(ago, 200)) / np.log1p(200)
        gaps.append(np.abs(model.decision_function(old) - middle))
    gap = np.stack(gaps)
    alone = np.concatenate([_alone(model, x, channel, hours) for channel in builder.schema.names])
    return {
        "gap_now": float(np.median(gap[0])), f"gap_after_{hours}h": float(np.median(gap[-1])),
        "never_further": float((np.diff(gap, axis=0) <= 1e-6).all(axis=0).mean()),
        "never_further_alone": float((np.diff(alone, axis=1) <= 1e-6).all(axis=1).mean()),
        "turned_back_alone": float(np.quantile(_turned_back(alone), 0.99)),
    }  # fmt: skip


def _alone(model: FeedForwardRisk, x: np.ndarray, channel: str, hours: int) -> np.ndarray:
    """(M, T) distances, with one channel growing old while all else stays as it is.

    Distances are those of log-odds from the same patient's with the mean for this channel. M are
    the patients in whom the channel was measured, T the hours of age, denser where weights fall.
    """
    builder = model.features_
    last, since = (builder.columns(block=b, channel=channel) for b in ("last", "since"))
    seen = x[(x[:, since] < 1).all(axis=1) & (x[:, last] != 0).any(axis=1)]
    mean = seen.copy()
    mean[:, last] = 0
    middle = model.decision_function(mean)
    gaps = []
    for more in sorted({0, *np.unique(np.geomspace(1, hours, 13).round().astype(int))}):
        old = seen.copy()
        ago = np.expm1(seen[:, since] * np.log1p(200)) + more
        old[:, since] = np.log1p(np.minimum(ago, 200)) / np.log1p(200)
        gaps.append(np.abs(model.decision_function(old) - middle))
    return np.stack(gaps, axis=1)


def _turned_back(gaps: np.ndarray) -> np.ndarray:
    """(M,) by how much a distance rises again at most, over what it ever was."""
    lowest = np.minimum.accumulate(gaps, axis=1)
    return (gaps - lowest).max(axis=1) / np.maximum(gaps.max(axis=1), 1e-9)


def main() -> None:
    """Trains and judges all three at both hospitals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    split = split_by_patient(registry.load("physionet2019"), test_size=0.3, validation_size=0.1)
    rows: list[dict[str, object]] = []
    for here in ("A", "B"):
        train, validation = (s.of("hospital", here) for s in (split.train, split.validation))
        # Hours of stays without sepsis are a third of what there is: neighbours tell the same.
        septic = np.isfinite(train.onset)[train.stay_of_row()]
        for seed in range(options.seeds):
            kept = septic | (np.random.default_rng(seed).random(train.n_rows) < 1 / 3)
            for name, how in WAYS.items():
                model = FeedForwardRisk(
                    n_knots=0, time_since=how, max_steps=options.steps, hidden=(128, 32),
                    dropout=0.5, positives=64, learning_rate=1e-3, validate_every=100,
                    random_state=seed, threads=1,
                )  # fmt: skip
                model.fit(train, validation=validation, rows=kept)
                row: dict[str, object] = {"inputs": name, "trained_at": here, "seed": seed}
                for there in ("A", "B"):
                    test = split.test.of("hospital", there)
                    wanted = target(test, 4)
                    found = ranking_metrics(
                        model.predict_proba(test)[:, 1], wanted.label, test.stay_of_row(),
                        rows=wanted.at_risk, resamples=100 if seed == 0 else 0,
                    ).auroc  # fmt: skip
                    row[there] = float(found.estimate)
                    if seed == 0:
                        row[f"{there}_interval"] = [float(found.lower), float(found.upper)]
                if how == "weight":
                    row |= ageing(model, validation)
                rows.append(row)
                print(row, flush=True)
                document = {"machine": machine("torch"), "steps": options.steps, "rows": rows}
                save(options.out, document)


if __name__ == "__main__":
    main()
