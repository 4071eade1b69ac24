from __future__ import annotations

import numpy as np
import pytest

from foretell.data.calendar import easter_sunday


@pytest.mark.parametrize(
    "day", ["1961-04-02", "2000-04-23", "2011-04-24", "2012-04-08", "2024-03-31", "2038-04-25"]
)
def test_easter_falls_on_its_date(day):
    assert easter_sunday(int(day[:4])) == np.datetime64(day)
