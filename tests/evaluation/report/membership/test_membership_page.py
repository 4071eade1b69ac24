from __future__ import annotations

import json

import numpy as np
import pytest

from foretell.audits.membership import LiRA, LossThreshold, Shadows, audit_membership
from foretell.audits.membership.checks import BlindBaseline
from foretell.evaluation.report.membership import mia_report
from foretell.training.private import PrivacyStatement

STATEMENT = PrivacyStatement(
    8.0, 1e-5, "add_remove_example", "utterance", "poisson(0.05)", "pld", "book_keeping", 1.0,
    (0.8,), (200,), ("the seed is secret",), "event",
)  # fmt: skip


@pytest.fixture(scope="module")
def shadows():
    rng = np.random.default_rng(0)
    member = rng.random((6, 300)) < 0.5
    return Shadows(rng.normal(size=(6, 300)) + 2 * member, member)


def test_the_page_names_the_attacker_the_guarantee_and_the_most_exposed(shadows, tmp_path):
    audit = audit_membership(
        shadows, [LossThreshold(), LiRA()], statement=STATEMENT.to_dict(), notes=["Half of them."]
    )
    names = [f"<b>{i}</b>" for i in range(300)]
    file, page = mia_report(audit, tmp_path, title="A title", names=names, unit="utterance")
    text = page.read_text()
    assert "black_box_score" in text and "Half of them." in text and "A title" in text
    assert "(epsilon 8, delta 1e-05)" in text and "the seed is secret" in text
    assert "&lt;b&gt;" in text and "<b>1</b>" not in text
    assert "This audit is invalid" not in text
    document = json.loads(file.read_text())
    assert document["attacks"][0]["auc"] > 0.7
    assert document["vulnerability"]["examples"] > 250


def test_an_invalid_audit_says_so_first(shadows, tmp_path):
    audit = audit_membership(shadows, [LossThreshold()], blind=BlindBaseline(0.71, 0.03, True))
    file, page = mia_report(audit, tmp_path)
    text = page.read_text()
    assert "This audit is invalid" in text and "0.710" in text
    assert "not private" in text
    assert json.loads(file.read_text())["valid"] is False
