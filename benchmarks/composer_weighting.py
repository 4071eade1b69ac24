"""Hours since a measurement: as features, as COMPOSER's fading weights, or not at all.

    python benchmarks/composer_weighting.py --out benchmarks/results/composer_weighting.json

One net each, feed-forward or additive, trained at one hospital of the 2019 challenge and judged at
it and at the other, both ways round, by the 4-hour AUROC of hours before the onset. No
piecewise-linear encoding in any of them. Patients are split 70/30 by hash; a seventh of the 70 % is
kept to stop by. ``--only`` trains some of them anew and leaves the others in the file as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from _common import machine, save

from foretell.data import registry
from foretell.data.clinical import CausalFeatureBuilder, Stays, split_by_patient, target
from foretell.estimators import AdditiveRisk, FeedForwardRisk
from foretell.evaluation.clinical import ranking_metrics

WAYS = {"hours as features": "feature", "fading weights": "weight", "neither": "drop"}
ADDITIVE = {
    "fading weights, additive": "sigmoid",
    "fading weights, additive, one rate": "exponential",
}
Model = FeedForwardRisk | AdditiveRisk


def made(name: str, steps: int, seed: int) -> Model:
    """The untrained model of a row."""
    same = {"max_steps": steps, "positives": 64, "validate_every": 100, "random_state": seed}
    if name in ADDITIVE:
        return AdditiveRisk(fading=ADDITIVE[name], threads=1, **same)
    return FeedForwardRisk(
        n_knots=0, time_since=WAYS[name], hidden=(128, 32), dropout=0.5, learning_rate=1e-3,
        threads=1, **same,
    )  # fmt: skip


def population(model: Model, x: np.ndarray, channel: str | None = None) -> np.ndarray:
    """(M, F) the same patients with the population's mean for a channel, or for all.

    A net behind faded values has it at the mean value; an additive one where nothing is measured.
    """
    builder = model.features_
    mean = x.copy()
    mean[:, builder.columns(block="last", channel=channel)] = 0
    if isinstance(model, AdditiveRisk):
        mean[:, builder.columns(block="since", channel=channel)] = 1
    return mean


def ageing(model: Model, stays: Stays, hours: int = 48) -> dict[str, float]:
    """What the weighting is for: with all else as it is, values grow old and the score fades.

    From the last hour of every stay all measurements age for ``hours`` hours. Distances are those
    of log-odds from a patient who is the population's mean in all channels, in the median of stays.
    """
    builder = model.features_
    assert isinstance(builder, CausalFeatureBuilder)
    x = builder.transform(stays)[stays.offsets[1:] - 1]
    since = builder.columns(block="since")
    middle = model.decision_function(population(model, x))
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
        "turned_back": float(np.quantile(_turned_back(gap.T), 0.99)),
        "never_further_alone": float((np.diff(alone, axis=1) <= 1e-6).all(axis=1).mean()),
        "turned_back_alone": float(np.quantile(_turned_back(alone), 0.99)),
    }  # fmt: skip


def _alone(model: Model, x: np.ndarray, channel: str, hours: int) -> np.ndarray:
    """(M, T) distances, with one channel growing old while all else stays as it is.

    Distances are those of log-odds from the population's mean in this channel. M are
    the patients in whom the channel was measured, T the hours of age, denser where weights fall.
    """
    builder = model.features_
    last, since = (builder.columns(block=b, channel=channel) for b in ("last", "since"))
    seen = x[(x[:, since] < 1).all(axis=1) & (x[:, last] != 0).any(axis=1)]
    middle = model.decision_function(population(model, seen, channel))
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
    """Trains and judges all of them at both hospitals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*WAYS, *ADDITIVE], metavar="INPUTS")
    options = parser.parse_args()
    names = options.only or [*WAYS, *ADDITIVE]
    split = split_by_patient(registry.load("physionet2019"), test_size=0.3, validation_size=0.1)
    rows: list[dict[str, object]] = []
    if options.only and options.out and options.out.exists():
        rows = [r for r in json.loads(options.out.read_text())["rows"] if r["inputs"] not in names]
    for here in ("A", "B"):
        train, validation = (s.of("hospital", here) for s in (split.train, split.validation))
        # Hours of stays without sepsis are a third of what there is: neighbours tell the same.
        septic = np.isfinite(train.onset)[train.stay_of_row()]
        for seed in range(options.seeds):
            kept = septic | (np.random.default_rng(seed).random(train.n_rows) < 1 / 3)
            for name in names:
                model = made(name, options.steps, seed)
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
                if name.startswith("fading"):
                    row |= ageing(model, validation)
                rows.append(row)
                print(row, flush=True)
                document = {"machine": machine("torch"), "steps": options.steps, "rows": rows}
                save(options.out, document)


if __name__ == "__main__":
    main()
