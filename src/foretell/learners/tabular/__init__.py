"""Learners of tables: one row, one example."""
