"""All methods of delayed feedback: importing this registers them."""

from foretell.estimators.feedback import ages, streams  # noqa: F401
