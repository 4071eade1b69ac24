"""Whether an audit means anything: what can be told without the model, and twins on both sides."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from foretell.audits.membership.curve import auc, check_scores
from foretell.errors import DataError

BLIND_LIMIT = 0.55
_FOLDS = 5


class BlindBaseline(NamedTuple):
    """How well members are told from others by what they are, without asking the model.

    Attributes:
        auc: of a classifier of the examples themselves, cross-validated.
        noise: standard deviation of that AUC where there is nothing to find.
        invalid: whether attacks on these examples prove nothing: the AUC is above 0.55, and not by
            chance.
    """

    auc: float
    noise: float
    invalid: bool

    def __str__(self) -> str:
        return f"blind baseline: AUC {self.auc:.3f} without the model (chance: {self.noise:.3f})"


def blind_baseline(examples: Any, membership: ArrayLike, *, seed: int = 0) -> BlindBaseline:
    """Classifies membership by the examples alone.

    Where members and others come from different times or sources, an attack "succeeds" by telling
    these apart, and its figures say nothing of the model (Das, Zhang and Tramer 2024).

    Args:
        examples: numbers ``(N, d)``, a sparse matrix, or N strings.
        membership: ``(N,)``.
        seed: of the folds.

    Raises:
        DataError: fewer than five members or others, or lengths differ.
    """
    member = np.asarray(membership).astype(bool)
    if sparse.issparse(examples):
        features = examples.tocsr()
    elif len(examples) and isinstance(examples[0], str):
        features = HashingVectorizer(n_features=1 << 14).transform(examples)
    else:
        features = np.nan_to_num(np.asarray(examples, np.float64))
    size = features.shape[0]
    if size != len(member):
        raise DataError(f"{size} examples have {len(member)} memberships")
    inside = int(member.sum())
    if min(inside, size - inside) < _FOLDS:
        raise DataError(f"{inside} members and {size - inside} others are too few to be compared")
    # Looser penalties find more in many features, stronger ones in few rows; one of them is enough
    # for a shift worth the name.
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=0.3, max_iter=300, tol=1e-3))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, features, member, cv=folds, method="decision_function")
    found = auc(scores, member)
    noise = math.sqrt((size + 1) / (12 * inside * (size - inside)))
    return BlindBaseline(found, noise, found > BLIND_LIMIT and found - 0.5 > 2 * noise)


class Duplicates(NamedTuple):
    """Examples of equal content.

    Attributes:
        groups: ``(k_i,)`` positions of each set of twins.
        across: how many examples have a twin on the other side of the membership.
    """

    groups: tuple[NDArray[np.int64], ...]
    across: int


def content_hashes(items: Iterable[Any]) -> list[str]:
    """A hash of each example's content: text without regard to case and white space, or numbers."""
    found = []
    for item in items:
        if isinstance(item, str):
            content = " ".join(item.casefold().split()).encode("utf-8", "surrogatepass")
        elif isinstance(item, bytes):
            content = item
        else:
            content = np.ascontiguousarray(item).tobytes()
        found.append(hashlib.sha256(content).hexdigest())
    return found


def find_duplicates(hashes: Sequence[str], membership: ArrayLike | None = None) -> Duplicates:
    """Twins, by :func:`content_hashes`.

    A member's twin outside is called a member with good reason, and counts as a false alarm.

    Args:
        hashes: N hashes.
        membership: ``(N,)``; None counts none across.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for position, digest in enumerate(hashes):
        places[digest].append(position)
    groups = tuple(np.array(found) for found in places.values() if len(found) > 1)
    across = 0
    if membership is not None:
        member = np.asarray(membership).astype(bool)
        across = sum(len(g) for g in groups if member[g].any() and not member[g].all())
    return Duplicates(groups, across)


class BoundCheck(NamedTuple):
    """Whether attacks stay below what differential privacy allows.

    Attributes:
        points: how many points of the curves were looked at.
        violations: how many of them are above the bound by more than their intervals.
        closest: the largest ``(TPR - delta) / FPR`` that is certain, as an epsilon; not above the
            guarantee's unless there is a violation.
    """

    points: int
    violations: int
    closest: float


def check_bound(
    scores: ArrayLike,
    membership: ArrayLike,
    epsilon: float,
    delta: float,
    *,
    confidence: float = 0.95,
    points: int = 100,
) -> BoundCheck:
    """Holds ``TPR <= exp(epsilon) FPR + delta`` against the points of an attack's ROC curve.

    Also its mirror image ``1 - FPR <= exp(epsilon) (1 - TPR) + delta``. All intervals hold together
    with the confidence: exact ones, corrected for their number.

    Args:
        scores: ``(n,)``.
        membership: ``(n,)``.
        epsilon: of the guarantee.
        delta: of the guarantee.
        confidence: of all points together.
        points: at most; spread evenly on a logarithmic axis.
    """
    from foretell.audits.membership.curve import roc
    from foretell.decisions.thresholds import clopper_pearson

    values, member = check_scores(scores, membership)
    curve = roc(values, member)
    outside, inside = int(curve.false[-1]), int(curve.true[-1])
    wanted = np.unique(np.round(np.geomspace(1, outside, points // 2)).astype(np.int64))
    wanted = np.unique(np.concatenate([[0], wanted, outside - wanted]))
    places = np.unique(np.searchsorted(curve.false, wanted, side="right") - 1)
    false, true = curve.false[places], curve.true[places]
    each = 1 - (1 - confidence) / (2 * len(places))
    low, _ = clopper_pearson(true, inside, each)
    _, fpr_high = clopper_pearson(false, outside, each)
    ratios = np.concatenate(
        [(low - delta) / fpr_high, (1 - fpr_high - delta) / np.maximum(1 - low, 1e-300)]
    )
    certain = np.log(np.maximum(ratios, 1e-300))
    allowed = np.concatenate(
        [math.exp(min(epsilon, 700)) * fpr_high + delta - low,
         math.exp(min(epsilon, 700)) * (1 - low) + delta - (1 - fpr_high)]
    )  # fmt: skip
    return BoundCheck(len(places), int((allowed < 0).sum()), float(max(0.0, certain.max())))
