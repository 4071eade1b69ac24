"""Extraction: planted secrets, and attacks that read them off a model's weights."""

from foretell.audits.extraction.defences import deduplicate
from foretell.audits.extraction.exposure import estimated_exposure, exposure, rank_of
from foretell.audits.extraction.inversion import ModelInversionAttack
from foretell.audits.extraction.report import Estimate, ExtractionReport, ExtractionRow
from foretell.audits.extraction.suite import Canary, CanarySuite, PlantedCanaries
from foretell.audits.extraction.target import ScoredTarget, VectorTarget, as_target

__all__ = [
    "Canary",
    "CanarySuite",
    "Estimate",
    "ExtractionReport",
    "ExtractionRow",
    "ModelInversionAttack",
    "PlantedCanaries",
    "ScoredTarget",
    "VectorTarget",
    "as_target",
    "deduplicate",
    "estimated_exposure",
    "exposure",
    "rank_of",
]
