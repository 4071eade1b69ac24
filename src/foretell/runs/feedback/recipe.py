"""The recipe of a run about late labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from foretell.errors import RecipeError
from foretell.runs.feedback.models import check_estimator, check_model, check_stream_model
from foretell.runs.section import BaseRecipe, Name, Section, nearest


def _as_text(value: Any) -> Any:
    """TOML's dates as the text that they were."""
    return value.isoformat() if hasattr(value, "isoformat") else value


Moment = Annotated[float | str, BeforeValidator(_as_text)]
"""A time of the log: a number in its unit, or a date where it has dates."""
Range = tuple[Moment, Moment]
"""From the first, included, to the second, excluded."""


class DataSection(Section):
    """Where the events come from and which columns are what.

    ``source`` is a simulator (``"funnel_stream"``), a public data set by its name
    (``"starbucks"``), a folder of stored events, or a table of entities; ``outcomes`` is then the
    table of what happened to them. ``options`` are arguments of the simulator or of the data set's
    reader. Of any source, ``attribution_window`` sets the window, ``between`` keeps exposure times
    and ``keep`` ranges of numeric features, both ends included: who takes part must be known at
    exposure.
    """

    source: str = "funnel_stream"
    options: dict[str, Any] = Field(default_factory=dict)
    between: Range | None = None
    keep: dict[str, tuple[float, float]] = Field(default_factory=dict)
    outcomes: str | None = None
    id_column: str = "id"
    time_column: str = "t"
    kind_column: str = "kind"
    outcome_time_column: str = "t_outcome"
    attribution_window: float | str | None = None
    unit: str | None = None
    features: list[str] | None = None
    conversion: str = "conversion"
    revocation: str | None = None
    deadline: str | None = None
    separator: str | None = None
    encoding: str = "utf8"
    decimal_comma: bool = False


class SnapshotSection(Section):
    """One moment at which models are trained on what is visible, and the rows that judge them.

    Args:
        now: the moment; nothing that happened later is seen in training.
        since: exposure time from which rows are learned from; all up to ``now`` when none.
        history: exposure times of the rows from which delays are learned, as far as their labels
            are final at ``now``; all when none.
        test: exposure times of the rows that judge the models by their final labels.
    """

    now: Moment
    since: Moment | None = None
    history: Range | None = None
    test: Range


class EstimatorSection(BaseModel):
    """The estimator that is trained: its ``kind`` and any of its hyper-parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = "HistGradientBoostingClassifier"

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters that the recipe sets."""
        return dict(self.model_extra or {})


class ModelSection(BaseModel):
    """A way to learn from late labels: its ``method`` and any other of its hyper-parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters that the recipe sets."""
        return dict(self.model_extra or {})


class DecisionSection(Section):
    """A decision on the corrected scores, with its precision.

    The model is trained at the snapshot's moment, scores the rows of ``hold_out`` as they arrive,
    and at ``known``, when their labels are final, a surface over score and uncertainty is chosen on
    them. The rows of ``test`` come after them. Uncertainty is the spread of ``members`` models,
    each trained on a random ``share`` of the rows.
    """

    snapshot: str | None = None
    model: str = "best"
    hold_out: Range
    known: Moment
    test: Range
    min_precision: Annotated[float, Field(gt=0, lt=1)] = 0.8
    method: Literal["mist", "ew_dp", "vw_dp", "milp"] = "mist"
    n_levels: int = Field(default=4, ge=1)
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.1
    abstain: bool = False
    members: int = Field(default=12, ge=2)
    share: Annotated[float, Field(gt=0, le=1)] = 0.7


class StreamSection(Section):
    """A prequential comparison: predict each stretch of time, then learn what it showed."""

    start: Moment
    end: Moment
    bucket: float | str = "1h"
    truth: bool = False
    models: dict[Name, ModelSection] = Field(min_length=1)


class FinalSection(Section):
    """The model that is saved: ``"best"`` or a name, trained with what is visible at ``now``."""

    model: str = "best"
    now: Moment | None = None


class ReportSection(Section):
    """What the report shows.

    Intervals resample ``cluster``: rows alone, all rows of a ``"time"``, or all rows of an
    ``"owner"``, whom ids name before their last slash.
    """

    resamples: int = Field(default=1000, ge=100)
    cluster: Literal["row", "time", "owner"] = "row"
    ages: int = Field(default=24, ge=2)


class Recipe(BaseRecipe):
    """A whole run. See the shipped ``offers`` and ``bookings`` for examples."""

    closed: ClassVar[tuple[str, ...]] = ("snapshots",)

    task: Literal["feedback"] = "feedback"
    title: str = "Learning from labels that come late"
    data: DataSection = Field(default_factory=DataSection)
    snapshots: dict[Name, SnapshotSection] = Field(default_factory=dict)
    estimator: EstimatorSection = Field(default_factory=EstimatorSection)
    models: dict[Name, ModelSection] = Field(default_factory=dict)
    baseline: str | None = None
    stream: StreamSection | None = None
    decision: DecisionSection | None = None
    final: FinalSection | None = Field(default_factory=FinalSection)
    report: ReportSection = Field(default_factory=ReportSection)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if bool(self.snapshots) != bool(self.models):
            raise ValueError("snapshots and models belong together: give both or neither")
        if not self.snapshots and self.stream is None:
            raise ValueError("there is nothing to do: give snapshots with models, or a stream")
        check_estimator(self.estimator.kind, self.estimator.parameters)
        for name, model in self.models.items():
            check_model(f"models.{name}", model.method, model.parameters)
        if self.stream is not None:
            for name, model in self.stream.models.items():
                check_stream_model(f"stream.models.{name}", model.method, model.parameters)
        places = {"baseline": self.baseline}
        if self.final is not None and self.models:
            places["final.model"] = self.final.model
        if self.decision is not None:
            places["decision.model"] = self.decision.model
            if not self.snapshots:
                raise ValueError("decision needs snapshots and models")
            if self.decision.snapshot not in (None, *self.snapshots):
                raise ValueError(
                    f"decision.snapshot {self.decision.snapshot!r} is no snapshot"
                    + nearest(self.decision.snapshot, self.snapshots)
                )
        for place, named in places.items():
            if named not in (None, "best", *self.models):
                raise ValueError(f"{place} {named!r} is no model" + nearest(named, self.models))
        return self

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Another source with the same window and the same kind of conversion."""
        kept = ("attribution_window", "conversion", "unit")
        return {"source": source, **{k: data[k] for k in kept if k in data}}

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named models only; a baseline or final model left out gives way."""
        for name in names:
            if name not in self.models:
                raise RecipeError(f"the recipe has no model {name!r}" + nearest(name, self.models))
        changes: dict[str, Any] = {"models": {n: self.models[n] for n in self.models if n in names}}
        if self.baseline not in names:
            changes["baseline"] = None
        for place in ("final", "decision"):
            section = getattr(self, place)
            if section is not None and section.model not in names:
                changes[place] = section.model_copy(update={"model": "best"})
        return self.model_copy(update=changes)
