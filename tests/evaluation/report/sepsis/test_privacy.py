"""What the report says of bundles."""

from __future__ import annotations

import pytest

from foretell.evaluation.report.sepsis.privacy import privacy_section

PASSED = {"performed": True, "passed": True, "linkage": 0.01, "of_patients": {"vector": 0.02}}


@pytest.mark.parametrize(
    ("audit", "noise_seed", "verdict", "bad"),
    [
        (PASSED, None, "may leave", False),
        (PASSED, 0, "for judging only", True),
        ({**PASSED, "passed": False}, None, "must not leave", True),
        ({"performed": False, "reason": "too few"}, None, "must not leave", True),
        ({"performed": False}, None, "not audited", True),
    ],
)
def test_only_audited_bundles_under_secret_noise_may_leave(audit, noise_seed, verdict, bad):
    entry = {"method": "wuperr", "release": 2.0, "noise_seed": noise_seed, "audits": {"B": audit}}
    section = privacy_section([entry])
    assert section is not None
    (row,) = section["rows"]
    assert (row["verdict"], row["bad"]) == (verdict, bad)
    if audit.get("performed"):
        assert row["figures"]["found by all their hours"] == "0.020"
