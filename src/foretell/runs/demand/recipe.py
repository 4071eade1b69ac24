"""The recipe of a demand run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foretell.errors import RecipeError
from foretell.learners.demand.forecast import DEFAULT_LEVELS
from foretell.runs.demand.models import (
    ENSEMBLE,
    MODELS,
    check_ensemble,
    constructor_parameters,
    make_model,
)
from foretell.runs.section import BaseRecipe, Name, Section, nearest

Season = Annotated[int, Field(ge=1)]


class DataSection(Section):
    """Where the series come from and which columns are what.

    ``source`` is a simulator (``"shop"``), a public data set by its short name (``"walmart"``), or
    the path of a file, a folder or a DuckDB database. ``options`` are arguments of the simulator or
    of the data set's reader.
    """

    source: str = "shop"
    options: dict[str, Any] = Field(default_factory=dict)
    horizon: int = Field(default=13, ge=1)
    season_length: Season | Annotated[list[Season], Field(min_length=1)] | None = None
    id_column: str = "unique_id"
    time_column: str = "ds"
    target_column: str = "y"
    past: list[str] = Field(default_factory=list)
    known: list[str] = Field(default_factory=list)
    events: list[str] = Field(default_factory=list)
    censored: str | None = None
    future: str | None = None
    static: str | None = None
    frequency: str | None = None
    impute: Literal["forward"] | None = None
    missing_known: Literal["carry", "error"] = "carry"
    query: str | None = None
    separator: str | None = None
    encoding: str = "utf8"
    decimal_comma: bool = False
    limit: int | None = Field(default=None, ge=1, description="use the first so many series only")


class ProtocolSection(Section):
    """One rolling-origin backtest.

    The last origin lies one horizon before each series' end; ``back`` names the origins instead,
    in periods before the end.
    """

    windows: int = Field(default=1, ge=1)
    step: int | None = Field(default=None, ge=1)
    refit: bool | Annotated[int, Field(ge=1)] = False
    back: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    horizon: int | None = Field(default=None, ge=1)
    min_history: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _origins_differ(self) -> ProtocolSection:
        if self.back is not None and len(set(self.back)) < len(self.back):
            raise ValueError(f"back names an origin twice: {self.back}")
        return self

    def fits(self, horizon: int) -> list[tuple[int, ...]]:
        """The origins that each fit serves, in periods before the end, the earliest first."""
        horizon = self.horizon or horizon
        step = self.step or horizon
        origins = self.back or [horizon + i * step for i in range(self.windows)]
        origins = sorted(origins, reverse=True)
        every = len(origins) if self.refit is False else int(self.refit)
        return [tuple(origins[i : i + every]) for i in range(0, len(origins), every)]


class ModelSection(BaseModel):
    """A model: its ``kind`` and any of that class's hyper-parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters that the recipe sets."""
        return dict(self.model_extra or {})

    @property
    def is_ensemble(self) -> bool:
        """Whether it joins other models of the recipe."""
        return self.kind == ENSEMBLE


class OrdersSection(Section):
    """The replenishment decision; numbers as in :class:`foretell.decisions.Replenishment`.

    ``items`` is a table with ``unique_id`` and any of these numbers by series (stock on hand, for
    instance). The orders follow the forecasts of the model that is kept.
    """

    items: str | None = None
    service_level: float | None = None
    underage: float | None = None
    overage: float | None = None
    price: float | None = None
    unit_cost: float | None = None
    salvage: float | None = None
    holding: float | None = None
    lead_time: int = Field(default=0, ge=0)
    review: int = Field(default=1, ge=1)
    minimum_order: float = 0.0
    batch_size: float = 0.0
    maximum_order: float | None = None
    dependence: Literal["rank", "independent"] = "rank"


class FinalSection(Section):
    """The model that is saved: ``"best"`` or a name, fitted anew on all data unless told not to."""

    model: str = "best"
    refit: bool = True


class ReportSection(Section):
    """What the report shows."""

    series: int = Field(default=200, ge=5, description="series that can be looked up")
    segments: list[str] = Field(
        default_factory=lambda: ["velocity", "horizon_bucket", "event", "history"]
    )


class Recipe(BaseRecipe):
    """A whole run. See the shipped files for examples."""

    closed: ClassVar[tuple[str, ...]] = ("protocols",)

    task: Literal["demand"] = "demand"
    title: str = "Demand forecasts and orders"
    quantiles: list[float] = Field(default_factory=lambda: list(DEFAULT_LEVELS))
    data: DataSection = Field(default_factory=DataSection)
    protocols: dict[Name, ProtocolSection] = Field(
        default_factory=lambda: {"holdout": ProtocolSection()}, min_length=1
    )
    models: dict[Name, ModelSection] = Field(min_length=1)
    baseline: str | None = None
    orders: OrdersSection | None = None
    final: FinalSection | None = Field(default_factory=FinalSection)
    report: ReportSection = Field(default_factory=ReportSection)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        for name, model in self.models.items():
            self._check_model(f"models.{name}", name, model)
        for place, named in (
            ("baseline", self.baseline),
            ("final.model", None if self.final is None else self.final.model),
        ):
            if named not in (None, "best", *self.models):
                raise ValueError(f"{place} {named!r} is no model" + nearest(named, self.models))
        for name, protocol in self.protocols.items():
            if (protocol.horizon or 0) > self.data.horizon:
                raise ValueError(
                    f"protocols.{name}.horizon {protocol.horizon} is longer than data.horizon "
                    f"{self.data.horizon}, which models are set up for"
                )
        return self

    def _check_model(self, where: str, name: str, model: ModelSection) -> None:
        if model.kind not in MODELS and not model.is_ensemble:
            raise ValueError(
                f"{where}.kind {model.kind!r} is not known"
                + nearest(model.kind, [*MODELS, ENSEMBLE])
            )
        allowed = constructor_parameters(model.kind)
        for key in model.parameters:
            if key not in allowed:
                raise ValueError(f"{where} has no key {key!r}" + nearest(key, allowed))
        if not model.is_ensemble:
            make_model(name, model.kind, model.parameters)
            return
        check_ensemble(where, model.parameters)
        plain = [n for n, m in self.models.items() if not m.is_ensemble]
        for member in model.parameters["members"]:
            if member not in plain:
                raise ValueError(
                    f"{where}.members: {member!r} is no model" + nearest(member, plain)
                )

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Another source with the same horizon."""
        return {"source": source, **{k: data[k] for k in ("horizon",) if k in data}}

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named models and the members of named ensembles only.

        A baseline or final model that is left out gives way to the best one.
        """
        kept: set[str] = set()
        for name in names:
            if name not in self.models:
                raise RecipeError(f"the recipe has no model {name!r}" + nearest(name, self.models))
            kept |= {name, *self.models[name].parameters.get("members", [])}
        changes: dict[str, Any] = {"models": {n: m for n, m in self.models.items() if n in kept}}
        if self.baseline not in kept:
            changes["baseline"] = None
        if self.final is not None and self.final.model not in kept:
            changes["final"] = self.final.model_copy(update={"model": "best"})
        return self.model_copy(update=changes)
