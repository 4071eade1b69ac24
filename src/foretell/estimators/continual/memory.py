"""What a site leaves behind: how sure it is of each weight, its episodes, its own intercept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.estimators.continual.carried import Adapter, Carried
from foretell.estimators.continual.release import NoRelease, Release, Released
from foretell.estimators.continual.rows import Held
from foretell.estimators.continual.site import (
    Episodes,
    SiteRecord,
    SiteRows,
    frozen_hash,
    intercept_for,
)
from foretell.estimators.continual.witness import ReleaseWitness
from foretell.learners.risk.examples import encoded
from foretell.learners.risk.ranking import auroc
from foretell.training import TensorExamples
from foretell.training.continual import binary_outcomes, diagonal_fisher, exemplars

_WITNESSES = 20_000


class Stored(NamedTuple):
    """Of one site.

    Attributes:
        episodes: released representations.
        told: what was done to them, JSON values.
        patients: behind them without and with an onset; None where patients are not known.
        witness: for the audit, at the site only; None where patients are not known.
    """

    episodes: Episodes
    told: dict[str, Any]
    patients: tuple[int, int] | None
    witness: ReleaseWitness | None


def site_precision(
    carried: Carried,
    given: SiteRows,
    rng: np.random.Generator,
    *,
    frozen: bool,
    adapter: Adapter | None,
    hours: int,
) -> tuple[Mapping[str, Tensor], int]:
    """Mean Fisher information of an hour by parameter, and how many entries were not finite."""
    some = exemplars(hours, rng, of=len(given.label))
    columns = {"label": torch.from_numpy(given.label[some].astype(np.float32))}
    if frozen:
        columns["h"] = torch.from_numpy(carried.hidden(given.features[some], adapter))
    else:
        columns["x"] = encoded(given.features[some], carried.encoder)
    net = carried.net(frozen=frozen)
    found = diagonal_fisher(net, TensorExamples(columns), outcomes=binary_outcomes)
    return found.values, found.not_finite


def store(
    carried: Carried,
    given: SiteRows,
    rng: np.random.Generator,
    hiding: np.random.Generator,
    *,
    adapter: Adapter | None,
    release: Release | None,
    size: int,
    positives: int,
    builder: CausalFeatureBuilder | None,
) -> Stored:
    """Chooses exemplars and releases their representations.

    Args:
        carried: whose net represents them.
        given: rows of the site.
        rng: of the choice.
        hiding: of the noise, and a secret.
        adapter: of the site.
        release: what is done to them.
        size: how many.
        positives: of them at most.
        builder: of the features, which names them for the witness.
    """
    chosen = exemplars(size, rng, labels=given.label, positives=min(positives, max(1, size // 2)))
    rng.shuffle(chosen)
    hidden, label = carried.hidden(given.features[chosen], adapter), given.label[chosen]
    who = None if given.patients is None else given.patients[chosen]
    release = NoRelease() if release is None else release
    out = release.release(hidden, label, who, hiding)
    stored = np.clip(out.h, -65504, 65504).astype(np.float16)
    episodes = Episodes(stored, out.label.astype(np.int8), frozen_hash(carried.learner))
    if given.patients is None:
        return Stored(episodes, out.told, None, None)
    behind = chosen if (out.exemplar < 0).any() else chosen[out.exemplar]
    people, outcome = given.patients[behind], given.label[behind]
    counts = (len(np.unique(people[outcome == 0])), len(np.unique(people[outcome == 1])))
    names = None if builder is None else builder.names
    witness = _witness(
        carried, given, given.patients, chosen, out, stored, adapter, release, hiding, names
    )
    return Stored(episodes, out.told, counts, witness)


def set_intercept(carried: Carried, record: SiteRecord, seen: Held) -> None:
    """Sets a site's intercept, by hours of its own, and writes down what its episodes ask for."""
    features, label = seen
    logits = carried.logits(features, record.name)
    record.intercept = intercept_for(logits, label, record.rate)
    kept = carried.episodes[record.name].label
    if 0 < int(kept.sum()) < len(kept):
        # Noise moves the mean risk: what it asks for is told apart while both are known.
        noisy = intercept_for(carried.episode_logits(record.name), kept, record.rate)
        record.episodes_gap = record.intercept - noisy
    record.metrics = {"validation_auroc": auroc(logits, label)}


def reset_intercept(carried: Carried, record: SiteRecord) -> NDArray[np.float64] | None:
    """Sets a site's intercept for the weights as they are, by its episodes.

    Their log-odds (M,); None where they are of one class and nothing was set.
    """
    label = carried.episodes[record.name].label
    if not 0 < int(label.sum()) < len(label):
        return None
    z = carried.episode_logits(record.name)
    record.intercept = intercept_for(z, label, record.rate) + record.episodes_gap
    return z


def follow(carried: Carried, record: SiteRecord) -> None:
    """Sets an earlier site's intercept for the new weights, and how well they rank its episodes."""
    z = reset_intercept(carried, record)
    if z is not None:
        label = carried.episodes[record.name].label
        record.metrics["episodes_auroc_now"] = auroc(z, label)


def _witness(
    carried: Carried,
    given: SiteRows,
    patients: NDArray[np.int64],
    chosen: NDArray[np.int64],
    out: Released,
    stored: NDArray[np.float16],
    adapter: Adapter | None,
    release: Release,
    rng: np.random.Generator,
    names: tuple[str, ...] | None,
) -> ReleaseWitness:
    """What an audit may look at, at the site only."""
    features = given.features
    outside = np.flatnonzero(~np.isin(patients, patients[chosen]))
    if len(outside) > _WITNESSES:
        outside = np.sort(rng.choice(outside, _WITNESSES, replace=False))
    clean = carried.hidden(features[outside], adapter) if len(outside) else None
    noisy = None
    linked = not (out.exemplar < 0).any()
    if clean is not None and linked:
        # Of rows that stand for nobody there are no pairs to attack with, and the others may
        # be too few for prototypes of their own.
        told = release.release(clean, given.label[outside], patients[outside], rng)
        noisy = np.asarray(told.h, np.float32)
        outside, clean = outside[told.exemplar], clean[told.exemplar]
    rows = chosen[out.exemplar] if linked else chosen
    return ReleaseWitness(
        names=names,
        stored=stored.astype(np.float32),
        stored_rows=features[rows] if linked else None,
        member_rows=features[rows],
        member_hidden=carried.hidden(features[rows], adapter),
        member_patients=patients[rows],
        other_rows=features[outside],
        other_hidden=clean,
        other_released=noisy,
        other_patients=patients[outside],
    )
