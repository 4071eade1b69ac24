"""Pseudonyms: what logs, metrics and errors may say of a patient."""

from __future__ import annotations

from foretell.data.clinical.deidentify.pseudonyms import Pseudonyms

__all__ = ["Pseudonyms"]
