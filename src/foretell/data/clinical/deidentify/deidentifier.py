"""The one object that takes identifiers out of stays, HL7 v2 messages and FHIR resources."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, date, tzinfo
from typing import Any, Literal

from foretell.data.clinical.deidentify import fhir, hl7, stays
from foretell.data.clinical.deidentify.crosswalk import Crosswalk
from foretell.data.clinical.deidentify.dates import Dates, Moved, YearsOnly
from foretell.data.clinical.deidentify.pseudonyms import KeyRing
from foretell.data.clinical.deidentify.rules import Removed
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.data.clinical.treatments import TreatmentCodes
from foretell.errors import ParameterError

Method = Literal["safe-harbor", "date-shift"]

STATEMENTS: Mapping[Method, str] = {
    "safe-harbor": (
        "The eighteen identifiers of 45 CFR 164.514(b)(2)(i) are removed. Whoever discloses the "
        "data must also have no actual knowledge that what is left could identify a person "
        "(164.514(b)(2)(ii)): no program can attest to that."
    ),
    "date-shift": (
        "This is not Safe Harbor: dates are moved, not removed, and codes follow from identifiers "
        "by a secret key. It needs the determination of an expert (45 CFR 164.514(b)(1)) that the "
        "risk is very small, or an agreement that permits the use."
    ),
}
"""What each method may claim."""

UNITS = frozenset(
    "ICU MICU SICU CCU CSRU CVICU CTICU NICU PICU TSICU NEURO-ICU NSICU BURN ED ER WARD STEPDOWN "
    "IMC PACU OR".split()
)
"""Kinds of units that name no place."""


class Deidentifier:
    """Tells of patients what does not identify them, and drops all that it does not know.

    Everything is an allow-list: a field, an element, a code or a word that is not known to be safe
    goes, free text first of all.

    ``"safe-harbor"`` (45 CFR 164.514(b)(2)) keeps of dates their year, tells ages above 89 as 90
    and names patients by codes that are drawn by chance, because a code must not be derived from
    what it stands for (164.514(c)(1)). Hours of stays, which are no dates, remain.

    ``"date-shift"`` keeps time: all dates of a patient are moved by the same secret days, so that
    intervals within a patient are kept, and codes are HMAC-SHA256 of site and identifier. It is
    *not* Safe Harbor and needs an expert's determination.

    Args:
        method: one of the two.
        keys: for ``"date-shift"``, which needs them; ``"safe-harbor"`` takes none.
        crosswalk: where codes are kept, apart from the data; in memory where None, so that nobody
            can lead them back and another export gives other codes by chance.
        site: of FHIR resources, and of HL7 messages that name no facility.
        zone: of times without an offset, for ``"date-shift"``.
        most_days: by which dates are moved at most.
        schema: whose LOINC codes and channels are known.
        year: this year, by which ages are reckoned.

    Attributes:
        removed: what was done so far, by element.

    Raises:
        ParameterError: an unknown method, keys that are missing or of no use.
    """

    def __init__(
        self,
        method: Method = "safe-harbor",
        *,
        keys: KeyRing | None = None,
        crosswalk: Crosswalk | None = None,
        site: str = "site",
        zone: tzinfo = UTC,
        most_days: int = 365,
        schema: Schema | None = None,
        year: int | None = None,
    ) -> None:
        if method not in STATEMENTS:
            raise ParameterError(f"method is {' or '.join(STATEMENTS)}, not {method!r}")
        if method == "date-shift" and keys is None:
            raise ParameterError(
                "method 'date-shift' needs keys, from which moved dates and codes follow: "
                "KeyRing.new(), or --key with a file of foretell data key"
            )
        if method == "safe-harbor" and keys is not None:
            raise ParameterError(
                "codes that follow from identifiers are not Safe Harbor (45 CFR 164.514(c)(1)): "
                "give no keys, and a crosswalk where patients must keep their codes"
            )
        if isinstance(most_days, bool) or not 1 <= most_days <= 36_500:
            raise ParameterError(f"most_days must lie in 1 to 36500, not {most_days}")
        self.method: Method = method
        self.keys, self.site, self.zone, self.most_days = keys, site, zone, most_days
        self.crosswalk = Crosswalk() if crosswalk is None else crosswalk
        self.schema = Schema.default() if schema is None else schema
        self.year = date.today().year if year is None else year
        self.treatments = TreatmentCodes()
        self.removed = Removed()

    def stays(self, given: Stays) -> Stays:
        """Stays under codes, by code: hours, known channels, age, sex and kinds of units."""
        return stays.cleaned(self, given)

    def hl7(self, data: bytes) -> bytes | None:
        """An HL7 v2 message without what identifies; None where it cannot be read."""
        return hl7.cleaned(self, data)

    def fhir(self, resource: Any) -> dict[str, Any] | None:
        """A FHIR R4 resource or bundle without what identifies; None where nothing may stay."""
        return fhir.cleaned(self, resource)

    def report(self) -> dict[str, Any]:
        """JSON values: method, what it may claim, and counts by element; no value of anybody."""
        return {
            "method": self.method,
            "statement": STATEMENTS[self.method],
            "key": None if self.keys is None else self.keys.current,
            "codes": "drawn by chance" if self.keys is None else "HMAC-SHA256 of site|identifier",
            **self.removed.to_dict(),
        }

    def code(self, kind: str, site: str, identity: str) -> str:
        """The code of a thing; a code stays what it is."""
        if self.is_code(identity):
            return identity
        keys = self.keys
        if keys is None:
            return self.crosswalk.code(
                kind, site, identity, "chance", lambda: f"r-{secrets.token_hex(16)}"
            )
        return self.crosswalk.code(
            kind, site, identity, keys.current, lambda: keys.code(kind, site, identity)
        )

    def is_code(self, text: str) -> bool:
        """Whether a text is a code that was given out, by these keys or this crosswalk."""
        if self.keys is not None:
            return self.keys.is_code(text)
        return text.startswith("r-") and self.crosswalk.holds(text)

    def dates(self, site: str, patient: str | None) -> Dates:
        """How a patient's dates are told; those of a code were moved already."""
        if self.keys is None:
            return YearsOnly()
        if patient is None:
            return Moved(self.keys.days(site, "", self.most_days), self.zone)
        if self.is_code(patient):
            return Moved(0, self.zone)
        return Moved(self.keys.days(site, patient, self.most_days), self.zone)

    @staticmethod
    def unit(text: str) -> str | None:
        """The kind of a unit, if its name says no more."""
        name = text.strip().upper()
        return name if name in UNITS else None
