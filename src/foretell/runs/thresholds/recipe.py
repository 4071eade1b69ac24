"""The recipe of a run about decisions under uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foretell.errors import RecipeError
from foretell.runs.section import BaseRecipe, Name, Section, nearest

Share = Annotated[float, Field(gt=0, lt=1)]
Surface = Literal["mist", "ew_dp", "vw_dp"]
Kind = Literal["ensemble", "mc_dropout", "laplace", "posterior_network", "given"]


class DataSection(Section):
    """Where the rows come from.

    ``source`` is ``"movielens_100k"`` (is a rating five stars?), ``"adult_census"`` (is an income
    above 50,000 USD?), ``"starbucks_offers"`` (is an offer redeemed?), the simulator
    ``"evidence_cells"``, or the path of a table that somebody else's model has scored, with columns
    for score, uncertainty and label. Such rows are split at random: ``hold_out`` is the share that
    rules are chosen on.
    """

    source: str = "evidence_cells"
    options: dict[str, Any] = Field(default_factory=dict)
    score_column: str = "score"
    uncertainty_column: str = "uncertainty"
    label_column: str = "y"
    hold_out: Share = 0.5


class ModelSection(Section):
    """What gives score and uncertainty; ``"given"`` takes both from the data as they are."""

    kind: Kind


class DecisionSection(Section):
    """The target and how rules are sought.

    Rules for ``min_precision`` are shown in full; ``compare`` are the precisions at which recalls
    are compared.
    """

    min_precision: Share = 0.7
    compare: list[Share] = Field(default_factory=lambda: [0.6, 0.7, 0.8], min_length=1)
    method: Literal["mist", "ew_dp", "vw_dp", "milp"] = "mist"
    methods: list[Surface] = Field(default=["mist", "vw_dp"], min_length=1)
    n_levels: int = Field(default=4, ge=1)
    delta: Share = 0.1
    abstain: bool = False


class ReportSection(Section):
    """What the report shows."""

    resamples: int = Field(default=300, ge=50)


class Recipe(BaseRecipe):
    """A whole run. See the shipped ``thresholds`` for an example."""

    task: Literal["thresholds"] = "thresholds"
    title: str = "Decisions over score and uncertainty"
    data: DataSection = Field(default_factory=DataSection)
    models: dict[Name, ModelSection] = Field(min_length=1)
    decision: DecisionSection = Field(default_factory=DecisionSection)
    report: ReportSection = Field(default_factory=ReportSection)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        trained = [name for name, model in self.models.items() if model.kind != "given"]
        if self.data.source in TRAINED:
            given = [name for name in self.models if name not in trained]
            if given:
                raise ValueError(
                    f"models.{given[0]}.kind 'given' takes scores from the data, and "
                    f"{self.data.source!r} holds none"
                )
        elif trained:
            raise ValueError(
                f"models.{trained[0]} would have to be trained, but {self.data.source!r} holds "
                "scores already: its kind must be 'given'"
            )
        return self

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Another source with the same columns."""
        kept = ("score_column", "uncertainty_column", "label_column", "hold_out")
        return {"source": source, **{k: data[k] for k in kept if k in data}}

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named models only."""
        for name in names:
            if name not in self.models:
                raise RecipeError(f"the recipe has no model {name!r}" + nearest(name, self.models))
        kept = {n: self.models[n] for n in self.models if n in names}
        return self.model_copy(update={"models": kept})


TRAINED = ("movielens_100k", "adult_census", "starbucks_offers")
"""Sources on which models are trained; the others hold scores."""
