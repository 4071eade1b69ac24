"""Audits of differential privacy: what epsilon can be proven to be exceeded."""

from foretell.audits.dp.clipping_only import ClippingOnly

__all__ = ["ClippingOnly"]
