"""What a site leaves behind: how sure it is of each weight, its episodes, its own intercept."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.errors import DataError
from foretell.estimators.continual.carried import Adapter, Carried, anchor_of
from foretell.estimators.continual.release import NoRelease, Release, Released, clipped
from foretell.estimators.continual.rows import Held
from foretell.estimators.continual.settings import Keeping
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


class Remembered(NamedTuple):
    """Of the net after a site.

    Attributes:
        precision: Omega by parameter.
        anchor: theta* by parameter.
        not_finite: entries of the Fisher information that were not finite.
        witness: of what was stored, for the audit; None where patients are not known.
    """

    precision: dict[str, Tensor]
    anchor: dict[str, Tensor]
    not_finite: int
    witness: ReleaseWitness | None


def remember(
    carried: Carried,
    keeping: Keeping,
    given: SiteRows,
    held: Held | None,
    record: SiteRecord,
    *,
    builder: CausalFeatureBuilder | None,
) -> Remembered:
    """Keeps what is kept of the site that was just trained on.

    Fills in ``record``, adds to ``carried.episodes``, freezes the first layer where it is to be,
    and sets the intercepts of all sites for the new weights.

    Args:
        carried: the trained net, and the site among its sites.
        keeping: how much, and how it is released.
        given: rows of the site.
        held: hours that its weights were chosen by.
        record: of the site.
        builder: of the features, which names them for the witness.
    """
    number = list(carried.sites).index(record.name)
    rng = np.random.default_rng((keeping.random_state, number, 11))
    seen = carried.seen(given.features, record, keeping.new_channels)
    given = replace(given, features=seen)
    adapter = carried.adapters.get(record.name)
    precision, not_finite = _propagated(carried, keeping, given, adapter, rng)
    anchor = anchor_of(carried.net(frozen=keeping.freeze_first_layer), precision)
    if keeping.freeze_first_layer:
        carried.learner.first.requires_grad_(False)
    # All of `rng` follows from numbers that a bundle tells: noise and order would be no secret.
    seed = keeping.release_seed
    hiding = np.random.default_rng(None if seed is None else (seed, number))
    names = None if builder is None else builder.names
    witness = _store(carried, keeping, given, record, adapter, rng, hiding, names)
    if held is not None and 0 < held[1].sum() < len(held[1]):
        ranked = (carried.seen(held[0], record, keeping.new_channels), held[1])
        _set_intercept(carried, record, ranked, "validation")
    else:
        _set_intercept(carried, record, (given.features, given.label), "training")
    # What was learned here has moved the scale of earlier sites' log-odds, too.
    for name, episode in carried.episodes.items():
        other = carried.sites[name]
        z = None if other is record else reset_intercept(carried, other)
        if z is not None:
            other.metrics["episodes_auroc_now"] = auroc(z, episode.label)
    return Remembered(precision, anchor, not_finite, witness)


def _propagated(
    carried: Carried,
    keeping: Keeping,
    given: SiteRows,
    adapter: Adapter | None,
    rng: np.random.Generator,
) -> tuple[dict[str, Tensor], int]:
    """Omega after the site, and how many entries of its information were not finite."""
    some = exemplars(keeping.fisher_examples, rng, of=len(given.label))
    columns = {"label": torch.from_numpy(given.label[some].astype(np.float32))}
    if keeping.freeze_first_layer:
        columns["h"] = torch.from_numpy(carried.hidden(given.features[some], adapter))
    else:
        columns["x"] = encoded(given.features[some], carried.encoder)
    net = carried.net(frozen=keeping.freeze_first_layer)
    found = diagonal_fisher(net, TensorExamples(columns), outcomes=binary_outcomes)
    factor = float(len(given.label)) if keeping.fisher_scale == "count" else 1.0
    precision = {
        n: factor * v + keeping.gamma * carried.precision.get(n, torch.zeros_like(v))
        for n, v in found.values.items()
    }
    return precision, found.not_finite


def _store(
    carried: Carried,
    keeping: Keeping,
    given: SiteRows,
    record: SiteRecord,
    adapter: Adapter | None,
    rng: np.random.Generator,
    hiding: np.random.Generator,
    names: tuple[str, ...] | None,
) -> ReleaseWitness | None:
    """Chooses exemplars and stores what is released of their representations."""
    most = min(keeping.positives_per_site, max(1, keeping.memory_per_site // 2))
    able = np.arange(len(given.label))
    if keeping.hours_per_patient is not None:
        able = _few_of_each(given, keeping.hours_per_patient, rng)
    label = given.label[able]
    chosen = able[exemplars(keeping.memory_per_site, rng, labels=label, positives=most)]
    # Whoever knew the order would know which vectors are of one patient, whose rows stand together.
    hiding.shuffle(chosen)
    hidden, label = carried.hidden(given.features[chosen], adapter), given.label[chosen]
    who = None if given.patients is None else given.patients[chosen]
    release = NoRelease() if keeping.release is None else keeping.release
    out = release.release(hidden, label, who, hiding)
    stored = np.clip(out.h, -65504, 65504).astype(np.float16)
    carried.episodes[record.name] = Episodes(
        stored, out.label.astype(np.int8), frozen_hash(carried.learner)
    )
    record.release = {**out.told, "seeded": keeping.release_seed is not None}
    if given.patients is None:
        return None
    behind = chosen if (out.exemplar < 0).any() else chosen[out.exemplar]
    people, outcome = given.patients[behind], given.label[behind]
    record.exemplar_patients = (
        len(np.unique(people[outcome == 0])),
        len(np.unique(people[outcome == 1])),
    )
    return _witness(
        carried, given, given.patients, chosen, out, stored, adapter, release, hiding, names
    )


def _few_of_each(given: SiteRows, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """So many hours of each patient at most, drawn by chance, those with an onset ahead first.

    Raises:
        DataError: it is not known which patient a row belongs to.
    """
    if given.patients is None:
        raise DataError("hours_per_patient needs to know the patients", hint="Give patients=")
    order = np.lexsort((rng.random(len(given.label)), -given.label, given.patients))
    whose = given.patients[order]
    first = np.flatnonzero(np.append(True, whose[1:] != whose[:-1]))
    place = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    return np.sort(order[place < most])


def _set_intercept(carried: Carried, record: SiteRecord, seen: Held, part: str) -> None:
    """Sets a site's intercept, by hours of its own, and writes down what its episodes ask for.

    ``part`` says what these hours are: where none are kept apart, those that were trained on.
    """
    features, label = seen
    logits = carried.logits(features, record.name)
    record.intercept = intercept_for(logits, label, record.rate)
    kept = carried.episodes[record.name].label
    if 0 < int(kept.sum()) < len(kept):
        # Noise moves the mean risk: what it asks for is told apart while both are known.
        noisy = intercept_for(carried.episode_logits(record.name), kept, record.rate)
        record.episodes_gap = record.intercept - noisy
    record.metrics = {f"{part}_auroc": auroc(logits, label)}


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
    clean = carried.hidden(features[outside], adapter)
    noisy = None
    linked = not (out.exemplar < 0).any()
    if linked and not len(outside):
        noisy = clean
    elif linked:
        # Of rows that stand for nobody there are no pairs to attack with, and the others may
        # be too few for prototypes of their own.
        told = release.release(clean, given.label[outside], patients[outside], rng)
        noisy = np.asarray(told.h, np.float32)
        outside, clean = outside[told.exemplar], clean[told.exemplar]
    rows = chosen[out.exemplar] if linked else chosen
    hidden, bound = carried.hidden(features[rows], adapter), getattr(release, "clip", None)
    if bound is not None:
        # The bundle tells the bound: whoever attacks it clips what he has, too.
        hidden, clean = clipped(hidden, bound), clipped(clean, bound)
    return ReleaseWitness(
        names=names,
        stored=stored.astype(np.float32),
        stored_rows=features[rows] if linked else None,
        member_rows=features[rows],
        member_hidden=hidden,
        member_patients=patients[rows],
        other_rows=features[outside],
        other_hidden=clean,
        other_released=noisy,
        other_patients=patients[outside],
    )
