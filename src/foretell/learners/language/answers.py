"""Answers that were found in texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to n questions.

    Attributes:
        questions: what was asked.
        texts: the answers, as they stand in the contexts.
        starts: ``(n,)`` characters at which they begin.
        log_probabilities: ``(n,)`` log chances of both ends.
    """

    questions: list[str]
    texts: list[str]
    starts: NDArray[np.int64]
    log_probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.texts)

    def to_polars(self) -> pl.DataFrame:
        """A row a question: question, answer, start, its log chance."""
        return pl.DataFrame(
            {"question": self.questions, "answer": self.texts, "start": self.starts,
             "log_probability": self.log_probabilities}
        )  # fmt: skip
