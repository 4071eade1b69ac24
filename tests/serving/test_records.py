"""Anchors, checks and retention of what the service keeps."""

from __future__ import annotations

import json
import time

import pytest
from typer.testing import CliRunner

from foretell.cli import app
from foretell.errors import DataError, ParameterError
from foretell.serving.records import YEAR, anchor, purge, read_anchors, rows_of, verify
from foretell.serving.store import open_store
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

from .test_rollout import admitted, fold_of, heart
from .test_treatments import T0

NOW = T0 + 10 * YEAR
DAY = 86400.0


def row(number: int) -> dict:
    return {"time": NOW + number, "actor": "dr", "action": "read", "subject": f"s{number}"}


@pytest.fixture
def store(address):
    held = open_store(address, partitions=2)
    yield held
    held.close()


def test_anchors_show_what_a_chain_alone_cannot(store, tmp_path):
    file = tmp_path / "anchors.jsonl"
    assert anchor(store, NOW, file) == []
    for day in range(3):
        for k in range(4):
            store.record("audit", row(10 * day + k))
        new = anchor(store, NOW + day * DAY, file)
        assert [a["log"] for a in new] == ["audit"]
        assert anchor(store, NOW + day * DAY + 5, file) == []
    anchors = read_anchors(file)
    assert [a["id"] for a in anchors] == [4, 8, 12]
    rows = list(rows_of(store, "audit"))
    assert verify(rows, anchors) == (12, [])
    # Cut at the end, the chain is whole: an anchor misses its row.
    count, wrong = verify(rows[:10], anchors)
    assert count == 10 and len(wrong) == 1 and "row 12" in wrong[0]
    edited = [dict(r) for r in rows]
    edited[5]["subject"] = "other"
    assert "row 6" in verify(edited, anchors)[1][0]
    file.write_text("{}\n")
    with pytest.raises(DataError, match="no anchor"):
        read_anchors(file)
    with pytest.raises(DataError, match="cannot be written"):
        anchor(store, NOW + 9 * DAY, tmp_path / "none" / "x")


def folded(store) -> None:
    from foretell.serving.worker import Worker

    worker = Worker(store, fold_of("old"), name="w", ttl=3600)
    worker.keep_leases(now=True)
    while worker.work():
        pass
    worker.leave()


def aged(store, patient: str, years: float) -> None:
    """As if all that is known of a patient had been received long ago."""
    store._run("UPDATE event SET received = ?, time = time WHERE patient = ?",
               (T0 + years * YEAR, patient))  # fmt: skip


def test_what_is_old_goes_and_the_rest_folds_to_the_same(store, tmp_path):
    store.append_events([admitted(p, "ICU") for p in ("P", "Q", "R")])
    for h in range(1, 6):
        store.append_events([heart(p, h) for p in ("P", "Q", "R")])
        send_ticks(store, T0 + 3600 * h, everywhere=True)
    store.append_events([heart("R", 6)])
    with pytest.raises(ParameterError, match="not folded"):
        store.purge(NOW)
    folded(store)
    send_ticks(store, T0 + 200 * 3600, everywhere=True)
    # R is heard of again years later, and stays.
    store.append_events([heart("R", 8 * 8766)])
    folded(store)
    store.record("audit", row(1))
    for patient in ("P", "Q"):
        aged(store, patient, 0.0)
    # What still has to be sent is not over.
    assert purge(store, 6.0, NOW).patients == 0
    store._run("UPDATE outbox SET status = 'sent'")
    told = purge(store, 6.0, NOW)
    assert told.patients == 2 and told.rows["score"] > 10 and told.rows["event"] >= 12
    assert len(store.scores("H", "P")) > 0 and len(list(rows_of(store, "audit"))) == 1
    done = purge(store, 6.0, NOW, dry=False, by="tester")
    assert done == told
    assert store.scores("H", "P") == [] and store.state("H", "Q") is None
    assert store.patient_events("H", "P") == [] and store.scores("H", "R")
    assert purge(store, 6.0, NOW).patients == 0
    rows = list(rows_of(store, "audit"))
    assert verify(rows) == (2, []) and rows[-1]["action"] == "purge"
    assert json.loads(rows[-1]["detail"])["patients"] == 2
    again = open_store(tmp_path / "again.db", partitions=2)
    rebuild(store, again, lambda: fold_of("old"))
    assert again.fingerprint() == store.fingerprint()
    # What was deleted and comes again is known: it does not begin a second time.
    assert store.append_events([heart("P", 3)]) == 0


def test_years_of_the_command_line_are_no_shorter_than_a_sites_own(tmp_path):
    def config(years: float) -> str:
        file = tmp_path / "c.toml"
        file.write_text(
            f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\n'
            f"[sites.H]\nretention_years = {years}\n"
        )
        return str(file)

    store = open_store(tmp_path / "s.db", partitions=2)
    store.append_events([admitted("P", "ICU")])
    folded(store)
    send_ticks(store, T0 + 200 * 3600, everywhere=True)
    folded(store)
    store._run("UPDATE outbox SET status = 'sent'")
    then = time.time() - 8 * YEAR
    store._run("UPDATE event SET received = ?, time = ? WHERE patient = 'P'", (then, then))
    run = CliRunner()
    # Nothing was heard for eight years.
    for own, years, count in ((10, 6, 0), (10, 9, 0), (2, 9, 0), (2, 6, 1)):
        told = run.invoke(app, ["record", "purge", "--config", config(own), "--years", str(years)])
        assert told.exit_code == 0 and f"{count} patients would" in told.stdout, (own, years)
    told = run.invoke(app, ["record", "purge", "--config", config(10), "--years", "6", "--yes"])
    assert "0 patients were deleted" in told.stdout and store.patient_events("H", "P")
    assert store.last_recorded("audit")["purpose"] == "retention of 6 years, of H 10"
    store.close()


def test_the_command_line_verifies_and_counts_before_it_deletes(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\n')
    run = CliRunner()
    missing = run.invoke(app, ["record", "verify", "--config", str(config)])
    assert missing.exit_code == 2 and not (tmp_path / "s.db").exists()
    store = open_store(tmp_path / "s.db", partitions=2)
    store.append_events([admitted("P", "ICU")])
    folded(store)
    for k in range(3):
        store.record("audit", row(k))
    told = run.invoke(app, ["record", "anchor", "--config", str(config)])
    (tmp_path / "a.jsonl").write_text(told.stdout)
    checked = ["record", "verify", "--config", str(config), "--anchors", str(tmp_path / "a.jsonl")]
    good = run.invoke(app, checked)
    assert good.exit_code == 0 and "audit: 3 rows, 1 anchors, whole" in good.stdout
    purged = run.invoke(app, ["record", "purge", "--config", str(config), "--years", "0.1"])
    assert purged.exit_code == 0 and "--yes" in purged.stdout
    assert store.patient_events("H", "P") and time.time() > T0
    store._run("UPDATE audit SET actor = 'nobody' WHERE id = 2")
    store.close()
    bad = run.invoke(app, checked)
    assert bad.exit_code == 1 and "row 2" in bad.output
