"""What a surface achieves, what a single threshold achieves, and what a guarantee costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Achieved:
    """What a rule achieves on some rows.

    Args:
        precision: share of positives among the rows called; NaN where none is.
        precision_low: lower end of its Clopper-Pearson interval.
        precision_high: upper end.
        recall: share of the positives that is called.
        recall_low: lower end of its Clopper-Pearson interval.
        recall_high: upper end.
        called: weight called positive.
        true_positives: positive weight among it.
        positives: positive weight of all rows.
        rows: weight of all rows.
    """

    precision: float
    precision_low: float
    precision_high: float
    recall: float
    recall_low: float
    recall_high: float
    called: float
    true_positives: float
    positives: float
    rows: float


@dataclass(frozen=True)
class Baseline:
    """The best single threshold on the score, for comparison.

    Args:
        threshold: the score from which a row is called; +inf where none reaches the target.
        achieved: what it achieves on the hold-out.
    """

    threshold: float
    achieved: Achieved


@dataclass(frozen=True)
class Guarantee:
    """The finite-sample guarantee and its price.

    Args:
        delta: the surface misses its target precision with at most this probability.
        walks: J starting points of the test.
        tested: surfaces that were tested before the walks stopped.
        family: surfaces in the family.
        selection_rows: rows on which the family was fitted.
        test_rows: rows on which precision was tested.
        p_value: of the surface returned; 1 where none was.
        plain_recall: recall on the test rows of the surface without guarantee.
        plain_precision: its precision there.
        price: recall of the guaranteed surface over that of the plain one, on the test rows.
    """

    delta: float
    walks: int
    tested: int
    family: int
    selection_rows: int
    test_rows: int
    p_value: float
    plain_recall: float
    plain_precision: float
    price: float
