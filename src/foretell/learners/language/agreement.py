"""How far two spans, answers or taggings agree; the counts that scores are made of."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from foretell.data.text import spans_of

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def span_counts(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Spans by kind: those there are, those that were found, and those that are both.

    Raises:
        ValueError: a tag that is none.
    """
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for tags, guesses in zip(true, predicted, strict=True):
        spans, guessed = set(spans_of(tags)), set(spans_of(guesses))
        there.update(span.kind for span in spans)
        found.update(span.kind for span in guessed)
        right.update(span.kind for span in spans & guessed)
    return there, found, right


def normal_answer(text: str) -> str:
    """An answer as SQuAD's script compares it: lower case, no marks, no articles, single spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_f1(predicted: str, answer: str) -> float:
    """Harmonic mean of the shares of words that a predicted and a true answer have in common.

    1 where both are empty after normalisation, 0 where one is.
    """
    said, right = normal_answer(predicted).split(), normal_answer(answer).split()
    if not said or not right:
        return float(said == right)
    both = (Counter(said) & Counter(right)).total()
    return 2 * both / (len(said) + len(right))


def best_answer_f1(predicted: str, answers: Sequence[str]) -> float:
    """The same with the nearest of several right answers."""
    return max(answer_f1(predicted, answer) for answer in answers)


def exact_answer(predicted: str, answers: Sequence[str]) -> bool:
    """Whether an answer is one of the right ones after normalisation; an empty one is not."""
    said = normal_answer(predicted)
    return bool(said) and any(said == normal_answer(answer) for answer in answers)
