"""What a service is told of one hospital by its TOML file."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from foretell.data.clinical.schema import Schema

Share = Annotated[float, Field(ge=0, le=1)]
Hours = Annotated[int, Field(ge=0, le=72)]


class Table(BaseModel):
    """A table of the file: a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SiteAlarmConfig(Table):
    """What holds of alarms at one site, instead of the table ``alarms`` and of a run's policy.

    ``tiers`` are thresholds of tiers in all units of the site, ``units`` those of single units.
    """

    tiers: dict[str, Share] = Field(default_factory=dict)
    units: dict[str, dict[str, Share]] = Field(default_factory=dict)
    persistence: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=62)]] | None = (
        None
    )
    rise: Annotated[float, Field(gt=0, le=1)] | None = None
    max_alarms: Annotated[int, Field(ge=1)] | None = None
    threshold: Share | None = None
    snooze_hours: Hours | None = None
    longest_silence_hours: Annotated[int, Field(ge=1, le=72)] | None = None


class SiteQuietConfig(Table):
    """For how long treatment silences alarms at one site, instead of the table ``quiet``."""

    antibiotics_hours: Hours | None = None
    sepsis_hours: Hours | None = None
    new_course_hours: Annotated[int, Field(ge=0, le=336)] | None = None
    orders: bool | None = None


class PanelTerms(Table):
    """What a panel costs at a site, and when its result is there; a number is a cost."""

    cost: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    turnaround: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    refractory: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    available: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return {"cost": value} if plain else value

    @model_validator(mode="after")
    def _something(self) -> PanelTerms:
        if not self.told:
            raise ValueError("terms of a panel are a cost, turnaround, refractory or available")
        return self

    @property
    def told(self) -> dict[str, Any]:
        """What is told of them."""
        return self.model_dump(exclude_none=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        terms = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {**terms, "minProperties": 1}]}


class SiteConfig(Table):
    """A hospital: its clock, the names it sends under, its codes, and what holds there.

    ``units`` are those that metrics tell apart. ``units_of_measure`` are the site's own spellings
    of units, or those of one of its codes: ``spelling = UCUM``, or ``code = {spelling = UCUM}``.
    ``panels`` is the site's own file of what can be ordered, ``costs`` what holds instead of what
    that file, or the service's, says of a panel. ``model_version`` pins the model that may speak
    here.
    """

    zone: str = "UTC"
    facilities: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()
    identifier_systems: tuple[str, ...] = ()
    codes: dict[str, str] = Field(default_factory=dict)
    treatments: dict[str, Literal["antibiotic", "sepsis", "none"]] = Field(default_factory=dict)
    silence_hours: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    units: tuple[Annotated[str, Field(min_length=1, max_length=80)], ...] = ()
    units_of_measure: dict[str, str | dict[str, str]] = Field(default_factory=dict)
    alarms: SiteAlarmConfig = SiteAlarmConfig()
    quiet: SiteQuietConfig = SiteQuietConfig()
    panels: Annotated[str, Field(min_length=1)] | None = None
    costs: dict[str, PanelTerms] = Field(default_factory=dict)
    retention_years: Annotated[float, Field(gt=0, le=100)] | None = None
    model_version: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _units_of_measure(self) -> SiteConfig:
        for key, told in self.units_of_measure.items():
            if isinstance(told, str):
                if not key.strip():
                    raise ValueError(
                        'units_of_measure: a unit that is not stated ("") needs a code: '
                        f'{{ CODE = {{ "" = "{told}" }} }}'
                    )
                _check_unit(told, f"units_of_measure, {key!r}")
                continue
            name = self.codes.get(key) or _variable_of(key)
            if name is None:
                raise ValueError(
                    f"units_of_measure names the code {key!r}, which no variable has: say in codes "
                    "what it means"
                )
            for spelling, unit in told.items():
                _check_unit(unit, f"units_of_measure, {key!r}, {spelling!r}", name)
        return self

    @field_validator("silence_hours")
    @classmethod
    def _channels(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in Schema.default():
                raise ValueError(f"silence_hours names {name!r}, which is no variable")
        return value

    @field_validator("zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):
            raise ValueError(f"no time zone is called {value!r}") from None
        return value

    @field_validator("codes")
    @classmethod
    def _codes(cls, value: dict[str, str]) -> dict[str, str]:
        for code, name in value.items():
            if name not in Schema.default():
                raise ValueError(f"code {code!r} names {name!r}, which is no variable")
        return value


def _variable_of(code: str) -> str | None:
    """The variable that a code of LOINC names, also as ``LN|CODE``."""
    system, _, rest = code.rpartition("|")
    found = Schema.default().by_loinc(rest) if system in ("", "LN") else None
    return None if found is None else found.name


def _check_unit(unit: str, where: str, name: str | None = None) -> None:
    """Refuses a unit that no variable, or not this one, has."""
    schema = Schema.default()
    variables = schema.variables if name is None else (schema[name],)
    known = {schema.unit(u): u for v in variables for u in (v.unit, *v.units)}
    if schema.unit(unit) in known:
        return
    close = get_close_matches(unit, [*known, *known.values()], n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    if name is not None:
        meant += f" Known are {', '.join(known.values())}"
    raise ValueError(f"{where}: {unit!r} is no unit of {name or 'any variable'}{meant}")
