"""How well a language model foresees a text."""

from __future__ import annotations

import math

from foretell.data.text import TextSet
from foretell.errors import DataError
from foretell.estimators.language import LanguageModel
from foretell.learners.language.stream_reader import raw_texts


def evaluate_language_model(model: LanguageModel, text: TextSet) -> dict[str, float]:
    """Scores of a language model on a text set.

    All are of the whole text, not means over examples, so that long texts count as much as they
    are long. Units that the model does not know are read as one unknown unit, which makes a model
    with a small vocabulary of words look better than it is; bits per character of a model of
    characters are comparable where all characters are known.

    Returns:
        ``texts``, ``units`` (characters or words, ends included), ``nats_per_unit``,
        ``perplexity`` (its exponential), ``bits_per_character`` (all bits over all characters, an
        end counted as one) and ``unknown``, the share of units the model does not know.

    Raises:
        DataError: an empty set.
    """
    if not len(text):
        raise DataError("there is no text to judge by")
    found = model.likelihoods(text)
    nats, units = float(found.nats.sum()), int(found.units.sum())
    reader = model.reader_
    unknown = sum(int((reader.encode(each) == 1).sum()) for each in raw_texts(text))
    return {
        "texts": float(len(text)),
        "units": float(units),
        "nats_per_unit": nats / units,
        "perplexity": math.exp(min(nats / units, 700.0)),
        "bits_per_character": nats / math.log(2) / float(found.characters.sum()),
        "unknown": unknown / units,
    }
