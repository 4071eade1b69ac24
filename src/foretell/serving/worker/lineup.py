"""Which model speaks for whom: told by events of the log, so that a replay hears the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from foretell.errors import ParameterError

Mode = Literal["off", "shadow", "canary"]
MODES = ("off", "shadow", "canary")


@dataclass(frozen=True)
class Lineup:
    """Who speaks, and who is only compared.

    A candidate in the shadow is asked every hour and raises nothing; as a canary it speaks in the
    units and sites that are named, and is in the shadow elsewhere. Where the candidate speaks, the
    primary model is in the shadow.

    Args:
        primary: version of the model that speaks.
        candidate: version of the model on trial.
        mode: what the candidate does: ``"off"``, ``"shadow"`` or ``"canary"``.
        units: in which a canary speaks.
        sites: in all units of which a canary speaks.

    Raises:
        ParameterError: the parts do not fit.
    """

    primary: str
    candidate: str | None = None
    mode: Mode = "off"
    units: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.primary:
            raise ParameterError("a lineup names the version that speaks")
        if self.mode not in MODES:
            raise ParameterError(f"the mode of a candidate is one of {MODES}, not {self.mode!r}")
        if self.mode != "off" and self.candidate is None:
            raise ParameterError(f"mode {self.mode!r} needs a candidate")
        if self.candidate == self.primary:
            raise ParameterError("the candidate speaks already: name another version")
        if self.mode == "canary" and not (self.units or self.sites):
            raise ParameterError("a canary needs units or sites in which it speaks")

    def speaker(self, site: str, unit: str | None) -> str:
        """The version that speaks for a patient."""
        return self.candidate if self._canary(site, unit) and self.candidate else self.primary

    def shadow(self, site: str, unit: str | None) -> str | None:
        """The version that is asked beside it, None where none is."""
        if self.mode == "off":
            return None
        return self.primary if self._canary(site, unit) else self.candidate

    def _canary(self, site: str, unit: str | None) -> bool:
        return self.mode == "canary" and (site in self.sites or unit in self.units)

    def to_json(self) -> dict[str, Any]:
        """Plain values for an event."""
        return asdict(self) | {"units": list(self.units), "sites": list(self.sites)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Lineup:
        """Reads what :meth:`to_json` wrote.

        Raises:
            ParameterError: it is none.
        """
        try:
            told = dict(values)
            told["units"], told["sites"] = tuple(told["units"]), tuple(told["sites"])
            return cls(**told)
        except (KeyError, TypeError):
            raise ParameterError("this is no lineup") from None
