"""Questions whose answers are spans of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from foretell.data.text.table import TextTable, required, words_of_text
from foretell.errors import DataError


class QuestionSet(TextTable):
    """Questions with the text that answers them; made by :meth:`from_frame` or :meth:`from_squad`.

    Args:
        frame: checked columns ``context``, ``question`` (text), ``answers`` (lists of texts) and
            ``starts`` (lists of the characters at which they begin); any others stay.
        notes: what is unusual and was left as it is.
    """

    rows_are: ClassVar[str] = "question"
    content: ClassVar[tuple[str, ...]] = ("context", "question", "answers", "starts")

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, *, file: str | None = None) -> QuestionSet:
        """Reads a table with a row a question.

        Without the columns ``answers`` and ``starts`` there are questions to be answered only.

        Raises:
            DataError: a column is missing, a text is blank, an answer is not where it should be;
                names the row.
        """
        required(frame, ("context", "question"), file)
        for name in ("context", "question"):
            words_of_text(frame, name, file)
        if "answers" not in frame.columns:
            return cls(frame)
        required(frame, ("starts",), file)
        columns = frame.select("context", "answers", "starts").iter_rows()
        for row, (context, answers, starts) in enumerate(columns):
            if not answers or len(answers) != len(starts or ()):
                raise DataError(
                    "a question needs an answer or more, and as many starts", file=file,
                    column="answers", row=row,
                )  # fmt: skip
            for answer, start in zip(answers, starts, strict=True):
                if not answer or start < 0 or context[start : start + len(answer)] != answer:
                    raise DataError(
                        f"the answer {answer!r} is not at character {start} of its context, which "
                        f"reads {context[max(0, start) : max(0, start) + len(answer or '')]!r}",
                        file=file, column="starts", row=row,
                    )  # fmt: skip
        return cls(frame)

    @classmethod
    def from_squad(cls, file: str | Path, *, split: str | None = None) -> QuestionSet:
        """Reads a file in the form of SQuAD 1.1: ``data``, ``paragraphs``, ``qas``, ``answers``.

        Questions marked ``is_impossible`` (SQuAD 2.0) are left out, since no span answers them.

        Args:
            file: JSON.
            split: name of the part that the file is.

        Raises:
            DataError: no such file, no JSON, a key that is missing; says where.
        """
        name = str(file)
        try:
            document = json.loads(Path(file).read_text("utf-8"))
        except OSError as error:
            raise DataError(f"the file cannot be read: {error}", file=name) from error
        except ValueError as error:
            raise DataError(
                f"the file is not JSON: {error}", file=name, hint="SQuAD 1.1's form is needed"
            ) from error
        rows: list[dict[str, Any]] = []
        where = "data"
        try:
            for a, article in enumerate(document["data"]):
                for p, paragraph in enumerate(article["paragraphs"]):
                    where = f"data[{a}].paragraphs[{p}]"
                    for q, asked in enumerate(paragraph["qas"]):
                        where = f"data[{a}].paragraphs[{p}].qas[{q}]"
                        if asked.get("is_impossible"):
                            continue
                        rows.append(
                            {
                                "id": str(asked["id"]),
                                "title": str(article.get("title", a)),
                                "context": paragraph["context"],
                                "question": asked["question"].strip(),
                                "answers": [found["text"] for found in asked["answers"]],
                                "starts": [found["answer_start"] for found in asked["answers"]],
                            }
                        )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where} is not as in SQuAD: {error!r}", file=name,
                hint="data[].paragraphs[] need context and qas; qas[] id, question and answers",
            ) from error  # fmt: skip
        if not rows:
            raise DataError("there is no question", file=name)
        frame = pl.DataFrame(rows)
        if split is not None:
            frame = frame.with_columns(pl.lit(split).alias("split"))
        return cls.from_frame(frame, file=name)

    def __repr__(self) -> str:
        parts = [f"{len(self):,} questions", f"{self.frame['context'].n_unique():,} contexts"]
        if self.splits:
            parts.append("parts " + ", ".join(self.splits))
        return f"QuestionSet({', '.join(parts)})"

    @property
    def has_answers(self) -> bool:
        """Whether answers are known."""
        return "answers" in self.frame.columns

    @property
    def answers(self) -> list[list[str]]:
        """Right answers of each question.

        Raises:
            DataError: there are none.
        """
        if not self.has_answers:
            raise DataError("the questions have no answers", column="answers")
        return self.frame["answers"].to_list()
