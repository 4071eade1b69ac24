"""All methods of delayed feedback: importing this registers them."""

from foretell.estimators.feedback import streams  # noqa: F401
