"""The rows that a site is trained on, and what the first site settles for those of all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.labels import target
from foretell.data.clinical.splits import held_out_patients
from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, ParameterError
from foretell.estimators.continual.site import SiteRecord, SiteRows
from foretell.learners.risk.examples import checked_rows, checked_weight, row_mask

Held = tuple[NDArray[np.float32], NDArray[np.int8]]
"""Features (R, F) and labels (R,) of the hours that weights are chosen by."""


def matrix_rows(
    X: ArrayLike,
    y: ArrayLike | None,
    *,
    validation: Stays | tuple[ArrayLike, ArrayLike] | None = None,
    rows: ArrayLike | None = None,
    patients: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    rate: float | None = None,
) -> tuple[SiteRows, Held | None]:
    """Rows of features that were made elsewhere; see :meth:`WUPERR.fit_site`.

    Raises:
        DataError: what belongs to the rows has another length.
        ParameterError: labels are missing, or the validation part is one of stays.
    """
    if y is None:
        raise ParameterError("a matrix of features needs labels: fit_site(X, y, site=...)")
    features, label = checked_rows(X, y)
    weight = None if sample_weight is None else checked_weight(sample_weight, len(label))
    who = None if patients is None else _numbered(patients, len(label))
    natural = float(label.mean()) if rate is None else float(rate)
    if rate is not None and not 0 < natural < 1:
        raise ParameterError(f"the rate of positive hours must lie inside (0, 1), not {rate}")
    if rows is not None:
        chosen = np.asarray(rows)
        features, label = features[chosen], label[chosen]
        who = None if who is None else who[chosen]
        weight = None if weight is None else weight[chosen]
    if isinstance(validation, Stays):
        raise ParameterError("after training on a matrix, validate on a matrix")
    held = None if validation is None else checked_rows(*validation)
    return SiteRows(features, label, who, weight, natural), held


def stay_rows(
    stays: Stays,
    *,
    site: str,
    builder: CausalFeatureBuilder | str,
    horizon: float,
    validation: Stays | tuple[ArrayLike, ArrayLike] | None = None,
    validation_size: float = 0.0,
    rows: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> tuple[SiteRows, Held | None, CausalFeatureBuilder]:
    """Hours at risk of stays, and the builder of their features.

    Args:
        stays: with their onset.
        site: whose they are.
        builder: that of earlier sites, which learns this site's scale; or the name of the
            features, of which one is fitted: this is the first site then.
        horizon: hours ahead.
        validation: stays, or features and labels.
        validation_size: share of patients held out where ``validation`` is None.
        rows: (R,) mask of further restrictions.
        sample_weight: (R,) of each hour in the loss.

    Raises:
        DataError: no hour is at risk, or weights are not one an hour.
    """
    weight = None if sample_weight is None else checked_weight(sample_weight, stays.n_rows)
    if validation is None and validation_size > 0 and rows is None and weight is None:
        train, aside = held_out_patients(stays, validation_size)
        # A validation part of one class cannot rank; all is trained on then.
        if np.isfinite(aside.onset).any() and np.isfinite(train.onset).any():
            stays, validation = train, aside
    wanted = target(stays, horizon)
    if not wanted.at_risk.any():
        raise DataError(f"{site!r} has no hour before an onset")
    kept = wanted.at_risk if rows is None else wanted.at_risk & row_mask(rows, stays.n_rows)
    if isinstance(builder, str):
        builder = CausalFeatureBuilder(builder, schema=stays.schema).fit(stays, kept)
    else:
        builder.add_site(site, stays, kept)
    features = builder.transform(stays, kept, site=site)
    numbers = np.unique(stays.patients.astype(str), return_inverse=True)[1]
    who = numbers[stays.stay_of_row()][kept]
    natural = float(wanted.label[wanted.at_risk].mean())
    weight = None if weight is None else weight[kept]
    held = None
    if isinstance(validation, Stays):
        other = target(validation, horizon)
        held = (
            builder.transform(validation, other.at_risk, site=site),
            other.label[other.at_risk],
        )
    elif validation is not None:
        held = checked_rows(*validation)
    return SiteRows(features, wanted.label[kept], who, weight, natural), held, builder


def described(site: str, given: SiteRows, fresh: tuple[str, ...]) -> SiteRecord:
    """The record of a site before its training; ``fresh`` are its new channels."""
    hours, positive = len(given.label), int(given.label.sum())
    people = None if given.patients is None else len(np.unique(given.patients))
    return SiteRecord(
        site, hours, positive, people, given.rate,
        new_channels=fresh, trained=0 < positive < hours,
    )  # fmt: skip


def first_encoder(
    given: SiteRows, n_knots: int, *, patients: int, standardised: bool
) -> PiecewiseLinearEncoder | None:
    """The encoder of all sites, from the rows of the first; None without knots.

    Args:
        given: rows of the first site.
        n_knots: of each feature.
        patients: of how many the outer knots are means.
        standardised: whether the columns of the encoding are standardised.
    """
    if not n_knots:
        return None
    low, high = _common_range(given, patients)
    encoder = PiecewiseLinearEncoder(n_knots).fit(np.clip(given.features, low, high))
    # Rounded: a quantile can be the very value of one patient.
    encoder.knots = [np.unique(np.round(k, 3)) for k in encoder.knots or []]
    if standardised:
        encoder.standardise(given.features)
    return encoder


def constants_of(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(F,) values of the features that do not vary among the rows, else NaN."""
    flat = features.max(axis=0) == features.min(axis=0)
    return np.where(flat, features[0], np.nan).astype(np.float32)


def fresh_channels(
    features: NDArray[np.float32],
    constants: NDArray[np.float32],
    builder: CausalFeatureBuilder | None,
) -> tuple[str, ...]:
    """Channels, or features of a matrix, that did not vary at the first site but do here.

    Raises:
        DataError: the rows have another number of features than those of the first site.
    """
    if features.shape[1] != len(constants):
        raise DataError(
            f"the rows have {features.shape[1]} features, the first site {len(constants)}"
        )
    known = np.isnan(constants)
    varies = features.max(axis=0) != features.min(axis=0)
    new = np.flatnonzero(~known & varies)
    if builder is None:
        return tuple(f"feature {i}" for i in new)
    names = (builder.names[i].partition(":")[0] for i in new)
    return tuple(dict.fromkeys(names))


def _numbered(patients: ArrayLike, hours: int) -> NDArray[np.int64]:
    """(R,) numbers of the patients of rows."""
    given = np.asarray(patients)
    if given.shape != (hours,):
        raise DataError(f"patients has {given.size} values for {hours} hours")
    # Who is not known is not himself: None, NaN and such are no patients.
    unknown = given != given
    if given.dtype == object:
        unknown = unknown | np.array([p is None for p in given])
    if unknown.any():
        raise DataError("it is not known whose row this is", column="patients",
                        row=int(np.argmax(unknown)))  # fmt: skip
    return np.asarray(np.unique(given, return_inverse=True)[1], np.int64)


def _common_range(given: SiteRows, least: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(F,) means of the least and of the largest values of so many patients each.

    Knots leave the site: the extremes themselves would be the values of single patients.
    """
    who = np.arange(len(given.label)) if given.patients is None else given.patients
    order = np.argsort(who, kind="stable")
    begins = np.flatnonzero(np.append(True, np.diff(who[order]) != 0))
    ordered = given.features[order]
    low = np.sort(np.minimum.reduceat(ordered, begins), axis=0)[:least].mean(axis=0)
    high = np.sort(np.maximum.reduceat(ordered, begins), axis=0)[-least:].mean(axis=0)
    return low, high
