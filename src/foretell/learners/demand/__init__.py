"""Demand: models of quantities sold over time."""
