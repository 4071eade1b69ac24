"""Made stays for the tests of risk models: the heart rate rises before an onset."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import Stays, stays_from_frame


def made_stays(n: int = 120, seed: int = 0) -> Stays:
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n):
        hours = int(rng.integers(8, 40))
        septic = i % 3 == 0
        onset = int(rng.integers(8, hours + 1)) if septic else None
        t = np.arange(1, hours + 1)
        rise = 0.0 if onset is None else np.clip((t - onset + 10) / 10, 0, 1)
        pulse = 80 + 40 * rise + rng.normal(0, 5, hours)
        white = np.where(rng.random(hours) < 0.1, 8 + 8 * rise + rng.normal(0, 1, hours), np.nan)
        frames.append(
            pl.DataFrame(
                {
                    "id": [f"s{i:03d}"] * hours,
                    "hour": t,
                    "HR": pulse,
                    "SBP": np.where(rng.random(hours) < 0.7, rng.normal(120, 10, hours), np.nan),
                    "WBC": white,
                    "label": (t >= (onset or 10**6) - 6).astype(np.int64),
                    "age": [float(20 + i % 70)] * hours,
                    "sex": ["male" if i % 2 else "female"] * hours,
                    "unit": [("MICU", "SICU", None)[i % 3]] * hours,
                    "admission": [float(i % 50)] * hours,
                }
            )
        )
    return stays_from_frame(pl.concat(frames), label_column="label")


@pytest.fixture(scope="session")
def stays() -> Stays:
    return made_stays()


@pytest.fixture(scope="session")
def describe():
    """What ``stream`` is told of a stay."""

    def told(stay: Stays) -> dict[str, object]:
        unit, sex = str(stay.names("unit")[0]), str(stay.names("sex")[0])
        return {
            "age": float(stay.number("age")[0]),
            "sex": sex,
            "unit": None if unit == "unknown" else unit,
            "admission": float(stay.number("admission")[0]),
            "start": int(stay.starts[0]),
        }

    return told
