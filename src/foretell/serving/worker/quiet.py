"""Silence after treatment: what of a stay's drugs and diagnoses quiets its alarms, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from foretell.data.clinical.binning import hour_of
from foretell.data.clinical.treatments import ANTIBIOTIC
from foretell.errors import ParameterError

if TYPE_CHECKING:
    from foretell.serving.worker.state import PatientState

CARRIED = 48 * 3600.0
"""Seconds before a stay begins from which on treatments belong to it."""


@dataclass(frozen=True)
class QuietRules:
    """For how long alarms are quiet after treatment.

    A silence begins when the treatment became known and is counted from when it was given. Only
    the first dose of a course quiets: a patient who gets worse on antibiotics is to be heard of.

    Args:
        antibiotics: hours after the first dose; None takes the policy's
            ``quiet_after_treatment``, 0 is none.
        sepsis: hours after sepsis was diagnosed or a bundle of care for it ordered; as above.
        course: hours without a dose after which another course begins; 0 lets every dose quiet.
        orders: whether an order of antibiotics counts before a dose was given.
    """

    antibiotics: int | None = None
    sepsis: int | None = None
    course: int = 48
    orders: bool = False

    def __post_init__(self) -> None:
        for name in ("antibiotics", "sepsis", "course"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 24 * 14:
                raise ParameterError(f"{name} is 0 to 336 hours, not {value}")

    def counts(self, meaning: str, kind: str, status: str) -> bool:
        """Whether something of this kind in this status stands for treatment."""
        if status == "cancelled":
            return False
        if status == "done":
            return True
        # What is only ordered: care for sepsis says that somebody knows; a suspected diagnosis
        # does not.
        if meaning == ANTIBIOTIC:
            return self.orders and kind == "treatment"
        return kind != "condition"


class Treatment(NamedTuple):
    """A drug or diagnosis as it stands.

    Args:
        meaning: ``"antibiotic"`` or ``"sepsis"``; ``""`` where it turned out to be neither.
        given: when it was given, in seconds since 1970.
        known: when its first version became known.
        issued: when its last version did.
        stands: whether it was given, as far as is known.
        visit: to which it belongs, None where that is not known.
        hour: in which it counts where it came too late for its own; 0 otherwise.
    """

    meaning: str
    given: float
    known: float
    issued: float
    stands: bool
    visit: str | None
    hour: int

    def at(self, begin: float) -> int:
        """The hour of a stay from which on it is known."""
        return self.hour or max(hour_of((self.known - begin) / 3600), 1)


def silences(state: PatientState, rules: QuietRules, usual: int) -> dict[int, int]:
    """Hour -> last hour of the silence that begins in it.

    Args:
        state: of a stay.
        rules: of the site.
        usual: hours where the rules name none.
    """
    out: dict[int, int] = {}
    standing = [
        (t.at(state.begin), t.given, name, t)
        for name, t in sorted(state.treatments.items())
        if t.stands and (t.visit is None or state.visit is None or t.visit == state.visit)
    ]
    doses = sorted((h, given, name) for h, given, name, t in standing if t.meaning == ANTIBIOTIC)
    for hour, given, name, t in standing:
        length = rules.antibiotics if t.meaning == ANTIBIOTIC else rules.sepsis
        length = usual if length is None else length
        if t.meaning == ANTIBIOTIC and rules.course:
            # Of what was known by then: a dose that is told of later takes nothing back.
            since = given - 3600 * rules.course
            if any(
                h <= hour and since < g and (g, n) < (given, name) for h, g, n in doses
            ):  # fmt: skip
                continue
        until = min(hour_of((given - state.begin) / 3600), hour) - 1 + length
        if length and until >= hour:
            out[hour] = max(out.get(hour, 0), until)
    return out
