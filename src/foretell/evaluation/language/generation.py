"""How near written texts are to those that people wrote: ROUGE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretell.data.text import PairSet
from foretell.errors import DataError, ParameterError

ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(
    references: Sequence[Sequence[str]],
    predicted: Sequence[str],
    *,
    kinds: Sequence[str] = ROUGE,
    stem: bool = True,
) -> dict[str, float]:
    """F-measure of ROUGE (Lin 2004) by the package ``rouge-score``, mean over the texts.

    Of several references the one that fits best counts. An empty text, or one without a single
    letter or digit, has 0.

    Args:
        references: right texts of each example.
        predicted: one text an example.
        kinds: ``rouge1``, ``rouge2``, ..., ``rougeL``, ``rougeLsum``.
        stem: whether endings of words are dropped (Porter).

    Raises:
        DataError: different numbers of texts, none, or one without a reference.
        ParameterError: an unknown kind.
        ImportError: the package is not there: install ``foretell[language]``.
    """
    if len(references) != len(predicted) or not len(references):
        raise DataError(f"{len(references)} examples but {len(predicted)} predictions")
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ImportError(
            "ROUGE needs the package rouge-score: pip install 'foretell[language]'"
        ) from error
    scorer = RougeScorer(list(kinds), use_stemmer=stem)
    rows = []
    for row, (right, said) in enumerate(zip(references, predicted, strict=True)):
        if not right:
            raise DataError("an example has no reference", column="references", row=row)
        try:
            found = scorer.score_multi(list(right), said)
        except ValueError as error:
            raise ParameterError(f"kinds must be rouge1 to rouge9, rougeL: {error}") from error
        rows.append([found[kind].fmeasure for kind in kinds])
    return dict(zip(kinds, np.mean(rows, axis=0).tolist(), strict=True))


def evaluate_generation(pairs: PairSet, predicted: Sequence[str]) -> dict[str, float]:
    """ROUGE of texts written for a set of pairs, the share that is empty, and their length.

    Raises:
        DataError: pairs without targets, or another number of texts.
    """
    scores = rouge(pairs.references, predicted)
    words = [len(text.split()) for text in predicted]
    return {
        "pairs": float(len(pairs)), **scores,
        "empty": float(np.mean([count == 0 for count in words])),
        "words": float(np.mean(words)),
    }  # fmt: skip
