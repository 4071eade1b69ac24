"""Clipping each example's gradient by itself."""

from foretell.training.private.clipping.clipper import ClippedSum, Clipping, ExactClipper
from foretell.training.private.clipping.rules import Rule, Use, register_norm_rule

__all__ = ["ClippedSum", "Clipping", "ExactClipper", "Rule", "Use", "register_norm_rule"]
