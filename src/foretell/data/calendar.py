"""Movable feasts."""

from __future__ import annotations

from functools import cache

import numpy as np
from dateutil.easter import easter


@cache
def easter_sunday(year: int) -> np.datetime64:
    """Western Easter Sunday of a year, as a day."""
    return np.datetime64(easter(year), "D")
