"""What foretell raises: every error says what was wrong, where, and what would be right."""

from __future__ import annotations


class ForetellError(Exception):
    """Base of every error that foretell raises on purpose.

    ``exit_code`` is what the command line returns: 2 for input the user can mend, 3 for a failure
    of a model or of the machine.
    """

    exit_code = 3


class DataError(ForetellError, ValueError):
    """Data that cannot be used as it is.

    Args:
        problem: what is wrong, in one sentence.
        file: file or table in which it was found.
        column: column concerned.
        series: identifier of the first series concerned.
        row: zero-based row of the first offending value in the input.
        hint: what would be right.
    """

    exit_code = 2

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        column: str | None = None,
        series: str | None = None,
        row: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = file
        self.column = column
        self.series = series
        self.row = row
        self.hint = hint
        places = {"file": file, "column": column, "series": series, "row": row}
        where = ", ".join(
            f"{name} {value!r}" for name, value in places.items() if value is not None
        )
        if row is not None:
            where += " counted from 0"
        message = problem if not where else f"{problem} ({where})"
        super().__init__(message if hint is None else f"{message}. {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_data_error, (self.problem, self._places(), self.hint))

    def _places(self) -> dict[str, object]:
        return {"file": self.file, "column": self.column, "series": self.series, "row": self.row}


def _rebuild_data_error(problem: str, places: dict[str, object], hint: str | None) -> DataError:
    return DataError(problem, hint=hint, **places)  # type: ignore[arg-type]


class ParameterError(ForetellError, ValueError):
    """A hyper-parameter or argument outside its range, or two that contradict each other."""

    exit_code = 2


class RecipeError(ForetellError, ValueError):
    """A recipe that cannot be run: unknown key, wrong type, impossible combination."""

    exit_code = 2


class NotFittedError(ForetellError, RuntimeError):
    """A model was asked to predict before it was fitted."""

    exit_code = 2


class NotMatureError(ForetellError, RuntimeError):
    """Nothing is old enough to learn from yet: no window of a converted entity is over.

    Args:
        problem: what is missing, in one sentence.
        earliest: the earliest moment at which it would work, in the log's unit; None if unknown.
    """

    exit_code = 2

    def __init__(self, problem: str, earliest: float | None = None) -> None:
        self.problem, self.earliest = problem, earliest
        hint = "" if earliest is None else f". The earliest workable now is {earliest:.10g}"
        super().__init__(problem + hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problem, self.earliest))


class ArtefactError(ForetellError, ValueError):
    """A saved model or run folder that is damaged, unsafe or newer than this library."""

    exit_code = 2


class IncompatibleRepresentationError(ArtefactError):
    """Stored representations were made by another encoder: their units mean something else."""


class TrainingError(ForetellError, RuntimeError):
    """Training went wrong: a non-finite loss, no usable example, an incompatible strategy."""


class PrivacyViolation(ForetellError):  # noqa: N818  (a finding, not a failure)
    """An audit proved a larger epsilon than was claimed: the claim is false.

    Args:
        problem: what was claimed and what was proven.
        lower_bound: epsilon that is exceeded, with the audit's confidence.
        claimed: epsilon of the claim.
    """

    def __init__(self, problem: str, lower_bound: float, claimed: float) -> None:
        self.problem, self.lower_bound, self.claimed = problem, lower_bound, claimed
        super().__init__(problem)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problem, self.lower_bound, self.claimed))
