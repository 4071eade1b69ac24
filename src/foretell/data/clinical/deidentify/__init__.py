"""De-identification of stays, HL7 v2 messages and FHIR resources under 45 CFR 164.514(b)."""

from foretell.data.clinical.deidentify.crosswalk import Crosswalk, Identity
from foretell.data.clinical.deidentify.deidentifier import STATEMENTS, Deidentifier
from foretell.data.clinical.deidentify.files import deidentify
from foretell.data.clinical.deidentify.pseudonyms import KeyRing, Pseudonyms
from foretell.data.clinical.deidentify.rules import ELEMENTS, FREE_TEXT, RESTRICTED_ZIPS, Removed

__all__ = [
    "ELEMENTS",
    "FREE_TEXT",
    "RESTRICTED_ZIPS",
    "STATEMENTS",
    "Crosswalk",
    "Deidentifier",
    "Identity",
    "KeyRing",
    "Pseudonyms",
    "Removed",
    "deidentify",
]
