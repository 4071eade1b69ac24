"""What a hold-out supports: options checked and fitted to its size."""

from __future__ import annotations

import warnings

import numpy as np

from foretell.decisions.thresholds.binning import BINNINGS
from foretell.decisions.thresholds.holdout import HoldOut
from foretell.decisions.thresholds.proposal import DEFAULT_BINS, METHODS, Plan
from foretell.errors import ParameterError

FEW_POSITIVES = 50
MOST_BINS = 10_000


class SurfaceWarning(UserWarning):
    """A hold-out that supports less than was asked for: fewer levels, no uncertainty, no target."""


def make_plan(
    rows: HoldOut,
    method: str,
    n_levels: int,
    n_bins: int | None,
    binning: str,
    ties: str,
    monotone_levels: bool,
    missing: str,
    random_state: int,
) -> tuple[Plan, tuple[str, ...]]:
    """Checks how a surface is to be sought and fits it to what the hold-out supports.

    Raises:
        ParameterError: an unknown method, binning or treatment of ties, or numbers out of range.
    """
    for name, value, known in (
        ("method", method, METHODS),
        ("binning", binning, BINNINGS),
        ("ties", ties, ("merge", "jitter")),
    ):
        if value not in known:
            raise ParameterError(f"{name}={value!r}: choose one of {', '.join(known)}")
    if isinstance(n_levels, bool) or int(n_levels) != n_levels or n_levels < 1:
        raise ParameterError(f"n_levels={n_levels!r}: must be a whole number of at least 1")
    if n_bins is not None and (int(n_bins) != n_bins or not 1 <= n_bins <= MOST_BINS):
        raise ParameterError(f"n_bins={n_bins!r}: must be a whole number within [1, {MOST_BINS}]")
    notes: list[str] = []

    def warn(text: str) -> None:
        notes.append(text)
        warnings.warn(text, SurfaceWarning, stacklevel=4)

    known_u = rows.uncertainty[~np.isnan(rows.uncertainty)]
    nan = len(known_u) < len(rows)
    if method != "single" and not nan and (len(known_u) == 0 or np.ptp(known_u) == 0):
        warn("the uncertainty is constant: fell back to a single threshold on the score")
        method = "single"
    positives = int(rows.label.sum())
    if method != "single" and positives < FEW_POSITIVES and n_levels > 2:
        warn(
            f"the hold-out has {positives} positives, fewer than {FEW_POSITIVES}: used 2 "
            f"uncertainty levels instead of {n_levels}"
        )
        n_levels = 2
    plan = Plan(
        method=method,  # type: ignore[arg-type]
        n_levels=int(n_levels),
        n_bins=DEFAULT_BINS[method] if n_bins is None else int(n_bins),
        binning=binning,  # type: ignore[arg-type]
        ties=ties,  # type: ignore[arg-type]
        monotone_levels=monotone_levels,
        missing=missing == "level",
        seed=random_state,
    )
    return plan, tuple(notes)
