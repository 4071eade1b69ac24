"""FHIR R4: what resources and bundles say, read with tolerance."""

from foretell.data.clinical.fhir.reader import FhirError, FhirReader, read_fhir
from foretell.data.clinical.fhir.times import read_instant

__all__ = ["FhirError", "FhirReader", "read_fhir", "read_instant"]
