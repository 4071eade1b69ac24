"""The recipe: a small TOML file that says what a run does, checked before anything is loaded."""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foretell.errors import RecipeError
from foretell.learners.demand.forecast import DEFAULT_LEVELS
from foretell.runs.models import ENSEMBLE, MODELS, constructor_parameters

_SHIPPED = resources.files("foretell.runs") / "recipes"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class DataSection(_Section):
    """Where the series come from and which columns are what.

    ``source`` is a simulator (``"shop"``), a public data set by its short name (``"walmart"``), or
    the path of a file, a folder or a DuckDB database. ``options`` are arguments of the simulator or
    of the data set's reader.
    """

    source: str = "shop"
    options: dict[str, Any] = Field(default_factory=dict)
    horizon: int = Field(13, ge=1)
    season_length: int | list[int] | None = None
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
    query: str | None = None
    limit: int | None = Field(None, ge=1, description="use the first so many series only")


class ProtocolSection(_Section):
    """One rolling-origin backtest.

    The last origin lies one horizon before each series' end; ``back`` names the origins instead,
    in periods before the end.
    """

    windows: int = Field(1, ge=1)
    step: int | None = Field(None, ge=1)
    refit: bool | int = False
    back: list[int] | None = None
    horizon: int | None = Field(None, ge=1)
    min_history: int = Field(1, ge=1)


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


class OrdersSection(_Section):
    """The replenishment decision; numbers as in :class:`foretell.decisions.Replenishment`.

    ``items`` is a table with ``unique_id`` and any of these numbers by series (stock on hand, for
    instance). ``model`` is a model's name or ``"best"``.
    """

    model: str = "best"
    items: str | None = None
    service_level: float | None = None
    underage: float | None = None
    overage: float | None = None
    price: float | None = None
    unit_cost: float | None = None
    salvage: float | None = None
    holding: float | None = None
    lead_time: int = Field(0, ge=0)
    review: int = Field(1, ge=1)
    minimum_order: float = 0.0
    batch_size: float = 0.0
    maximum_order: float | None = None
    dependence: Literal["rank", "independent"] = "rank"


class FinalSection(_Section):
    """The model that is saved: ``"best"`` or a name, fitted anew on all data unless told not to."""

    model: str = "best"
    refit: bool = True


class ReportSection(_Section):
    """What the report shows."""

    series: int = Field(200, ge=5, description="series that can be looked up")
    segments: list[str] = Field(
        default_factory=lambda: ["velocity", "horizon_bucket", "event", "history"]
    )


class Recipe(_Section):
    """A whole run. See the shipped files for examples."""

    task: Literal["demand"] = "demand"
    title: str = "Demand forecasts and orders"
    description: str = ""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    threads: int | None = Field(1, ge=1)
    quantiles: list[float] = Field(default_factory=lambda: list(DEFAULT_LEVELS))
    data: DataSection = Field(default_factory=DataSection)
    protocols: dict[str, ProtocolSection] = Field(
        default_factory=lambda: {"holdout": ProtocolSection()}, min_length=1
    )
    models: dict[str, ModelSection] = Field(min_length=1)
    baseline: str | None = None
    orders: OrdersSection | None = None
    final: FinalSection | None = Field(default_factory=FinalSection)
    report: ReportSection = Field(default_factory=ReportSection)

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        for name, model in self.models.items():
            where = f"models.{name}"
            if model.kind not in MODELS and model.kind != ENSEMBLE:
                raise ValueError(
                    f"{where}.kind {model.kind!r} is not known"
                    + _nearest(model.kind, [*MODELS, ENSEMBLE])
                )
            allowed = constructor_parameters(model.kind)
            for key in model.parameters:
                if key not in allowed:
                    raise ValueError(f"{where} has no key {key!r}" + _nearest(key, allowed))
            if model.is_ensemble:
                self._check_members(where, model)
        for place, name in (
            ("baseline", self.baseline),
            ("orders.model", None if self.orders is None else self.orders.model),
            ("final.model", None if self.final is None else self.final.model),
        ):
            if name is not None and name != "best" and name not in self.models:
                raise ValueError(f"{place} {name!r} is no model" + _nearest(name, self.models))
        return self

    def _check_members(self, where: str, model: ModelSection) -> None:
        members = model.parameters.get("members", [])
        plain = [n for n, m in self.models.items() if not m.is_ensemble]
        if not isinstance(members, list) or len(members) < 2:
            raise ValueError(f"{where}.members must list at least two of the models {plain}")
        for member in members:
            if member not in plain:
                raise ValueError(
                    f"{where}.members: {member!r} is no model" + _nearest(member, plain)
                )

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with the named models only; members of a named ensemble are kept."""
        for name in names:
            if name not in self.models:
                raise RecipeError(f"the recipe has no model {name!r}" + _nearest(name, self.models))
        kept = set(names)
        for name in names:
            kept.update(self.models[name].parameters.get("members", []))
        document = self.model_dump()
        document["models"] = {n: document["models"][n] for n in self.models if n in kept}
        if self.baseline not in kept:
            document["baseline"] = None
        return parse(document)


def shipped() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(
        f.name.removesuffix(".toml") for f in _SHIPPED.iterdir() if f.name[-5:] == ".toml"
    )


def load(source: str | Path, *, data: str | None = None, settings: Iterable[str] = ()) -> Recipe:
    """Reads a shipped recipe by name or a TOML file, with changes.

    Args:
        source: ``"demand"``, ``"walmart"``, ... or a path.
        data: replaces the data's source; what the recipe said of columns and options is dropped,
            and so are its title and description; its horizon stays.
        settings: ``key=value`` with dotted keys and TOML values, e.g.
            ``models.mq_cnn.max_steps=200``; a value that is no TOML is taken as text.

    Raises:
        RecipeError: the file cannot be read, or a key is unknown (names the nearest one) or has a
            wrong value.
    """
    document = _read(source)
    if data is not None:
        horizon = document.get("data", {}).get("horizon")
        document["data"] = {"source": data, **({} if horizon is None else {"horizon": horizon})}
        for key in ("title", "description"):  # they speak of other data
            document.pop(key, None)
    for setting in settings:
        _apply(document, setting)
    return parse(document, where=str(source))


def parse(document: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain values.

    Raises:
        RecipeError: see :func:`load`.
    """
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(_explain(dict(e)) for e in error.errors())
        raise RecipeError(f"{where}: {problems}") from None


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix != ".toml" and str(source) in shipped():
        return tomllib.loads((_SHIPPED / f"{source}.toml").read_text(encoding="utf-8"))
    if not path.is_file():
        names = shipped()
        raise RecipeError(
            f"there is no recipe {str(source)!r}{_nearest(str(source), names)}; "
            f"shipped are {', '.join(names)}, or give the path of a .toml file"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not readable as TOML: {error}") from None


def _apply(document: dict[str, Any], setting: str) -> None:
    key, found, text = setting.partition("=")
    if not found or not key.strip():
        raise RecipeError(f"--set needs key=value, not {setting!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    place = document
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise RecipeError(f"--set {setting}: {parent!r} is a value, not a section")
    place[last] = value


def _explain(error: dict[str, Any]) -> str:
    place = [str(p) for p in error["loc"]]
    if error["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in place[:-1]:
            section = _inner(section, part)
        known = list(section.model_fields) if inspect.isclass(section) else []
        inside = f" in [{'.'.join(place[:-1])}]" if place[:-1] else ""
        return f"unknown key {place[-1]!r}{inside}" + _nearest(place[-1], known)
    message = error["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}: {message}" if place else message


def _inner(section: Any, part: str) -> Any:
    """The class of a section's field; for tables of sections the class of their entries."""
    if not inspect.isclass(section):
        return section
    fields = section.model_fields
    if part not in fields:
        return section
    annotation = fields[part].annotation
    options = [annotation, *getattr(annotation, "__args__", ())]
    classes = [o for o in options if inspect.isclass(o) and issubclass(o, BaseModel)]
    return classes[-1] if classes else section


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""
