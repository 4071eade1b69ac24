"""How much each client's update counts, given how the clients were chosen."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError
from foretell.training.federated.rules import Rule, Threshold, TopK, Uniform

Aggregation = Literal["consistent", "equal", "num_examples", "horvitz_thompson"]
AGGREGATIONS: tuple[str, ...] = ("consistent", "equal", "num_examples", "horvitz_thompson")

Array = NDArray[np.float64]


def aggregation_weights(
    aggregation: Aggregation,
    examples: Array,
    chances: Array,
    expected: Array,
    multiplicity: Array | NDArray[np.int64],
) -> Array:
    """Weights ``(m,)`` of the clients that answered; only their ratios matter.

    * ``"consistent"``: ``n / p``. Uniform selection gives ``n`` (federated averaging), proportional
      gives 1, ``n ** beta`` gives ``n ** (1 - beta)``: all optimise the mean over *examples*.
    * ``"equal"``: 1. What is optimised leans towards the clients chosen most often; low variance.
    * ``"num_examples"``: ``n``, whatever the selection.
    * ``"horvitz_thompson"``: ``n`` over how often the client is chosen on average; normalised, this
      is Hajek's estimator. The mean over examples without the bias of draws without replacement, of
      higher variance.

    All are multiplied by how often the client was drawn.

    Args:
        aggregation: which.
        examples: examples ``n`` of each client ``(m,)``.
        chances: ``p`` of each ``(m,)``, by the rule.
        expected: how often each is drawn on average ``(m,)``.
        multiplicity: how often each was drawn ``(m,)``.

    Raises:
        ParameterError: another aggregation.
    """
    times = np.asarray(multiplicity, dtype=float)
    if aggregation == "consistent":
        return times * examples / chances
    if aggregation == "equal":
        return times
    if aggregation == "num_examples":
        return times * examples
    if aggregation == "horvitz_thompson":
        return times * examples / expected
    raise ParameterError(
        f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {aggregation!r}"
    )


def pairing_warning(rule: Rule, aggregation: Aggregation) -> str | None:
    """What is wrong with weights for a rule; None when nothing is."""
    if aggregation not in AGGREGATIONS:
        raise ParameterError(
            f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {aggregation!r}"
        )
    if aggregation == "num_examples" and not isinstance(rule, Uniform | Threshold):
        return (
            f"selection {rule.name!r} with aggregation 'num_examples' counts activity twice: a "
            "client's influence is its chance times its number of examples, so that the most "
            "active ones dominate. Take aggregation 'consistent' or 'equal'"
        )
    if aggregation in ("horvitz_thompson", "consistent") and isinstance(rule, TopK | Threshold):
        return (
            f"selection {rule.name!r} never chooses some clients: no weights can make up for them, "
            "and their examples do not count. Set a floor"
        )
    return None
