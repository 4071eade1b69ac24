"""Scorers that fail at chosen moments: a replay in which none fails gives the same bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from foretell.data.clinical import CausalFeatureBuilder, FeatureSpec
from foretell.decisions.alarms import AlarmPolicy, Tier
from foretell.serving.events import MEASURED, NewEvent, digest
from foretell.serving.store import open_store
from foretell.serving.worker import Fold, Ladder, Risk, RuleScorer, Worker
from foretell.serving.worker.availability import OFF, ON, SKIP, Availability, JournalRow
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

T0 = 1_767_225_600.0
SPEC = FeatureSpec(blocks=("last",), static=())


class Flaky:
    """Remembers the hours it has seen, and fails when it is told to."""

    scaled = False

    def __init__(self, version="flaky-1", fails=lambda: False, advice=lambda: False) -> None:
        self.version, self.fails, self.advises = version, fails, advice
        self.builder = CausalFeatureBuilder(SPEC)
        self.calls = 0

    def state0(self):
        return {"seen": np.zeros(1)}

    def step(self, state, features):
        self.calls += 1
        if self.fails():
            raise OSError("the disk is away, says P1")
        heart = float(np.nan_to_num(features[0], nan=60.0))
        seen = np.float64(0.9) * state["seen"] + heart
        return {"seen": seen}, Risk(float(1 / (1 + np.exp(4 - seen[0] / 200))), model=self.version)

    def advise(self, state, features, after, *, risk, hour, ordered, asked):
        if self.advises():
            raise TimeoutError
        return [{"panel": "Lactate", "hour": hour}]

    def still(self, offers, after, *, ordered):
        return offers


def make_fold(*scorers) -> Fold:
    ladder = Ladder([*scorers, RuleScorer("news2")])
    return Fold(ladder, AlarmPolicy(tiers=(Tier("urgent", 0.3),), snooze=3), watermark=2)


def feed(seed: int, patients: int = 5, hours: int = 12):
    """Events of results, some late and some corrected, and ticks."""
    rng = random.Random(seed)
    out: list = []
    for p in range(patients):
        for h in range(hours):
            time = T0 + 3600 * h + rng.randrange(1, 3600)
            late = rng.choice((0, 0, 0, 5000, 20_000))
            group = digest("g", p, h).hex()[:16]
            out.append((time + late, p, [group, "HR", rng.uniform(50, 149), time, time, 1]))
            if rng.random() < 0.2:
                fixed = time + rng.uniform(100, 30_000)
                out.append((fixed, p, [group, "HR", rng.uniform(50, 149), time, fixed, 2]))
    for h in range(1, hours + 3):
        out.append((T0 + 3600 * h, None, None))
    return sorted(out, key=lambda e: e[0])


def drained(worker: Worker) -> None:
    while worker.work():
        pass


def play(store, worker: Worker, events, group: int = 7) -> None:
    waiting = []
    for time, patient, item in events:
        if patient is None:
            store.append_events(waiting)
            waiting = []
            drained(worker)
            send_ticks(store, time)
        else:
            key = digest("k", patient, item)
            body = {"visit": None}
            waiting.append(NewEvent("H", f"P{patient}", MEASURED, time, body, [(key, item)]))
            if len(waiting) == group:
                store.append_events(waiting)
                waiting = []
                drained(worker)
    store.append_events(waiting)
    drained(worker)


def same_again(store, tmp_path, *scorers, batches=(1, 5, 1000)) -> None:
    for batch in batches:
        again = open_store(tmp_path / f"again{batch}.db", partitions=store.partitions)
        assert rebuild(store, again, lambda: make_fold(*scorers), batch=batch) > 0
        assert again.fingerprint() == store.fingerprint(), batch
        again.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_replay_in_which_nothing_fails_gives_the_same_bytes(tmp_path, seed):
    rng = random.Random(seed)
    store = open_store(tmp_path / "s.db", partitions=3)
    flaky = Flaky(fails=lambda: rng.random() < 0.08, advice=lambda: rng.random() < 0.03)
    worker = Worker(store, make_fold(flaky), name="w", ttl=3600, batch=9, recover=0.0)
    worker.keep_leases(now=True)
    events = feed(seed)
    cut = len(events) // 2
    play(store, worker, events[:cut])
    # A worker that begins anew reads what the other one knew.
    worker.leave()
    worker = Worker(store, make_fold(flaky), name="x", ttl=3600, batch=4, recover=0.0)
    worker.keep_leases(now=True)
    play(store, worker, events[cut:], group=3)
    kinds = {(r.kind, r.version) for r in store.journal()}
    assert {(OFF, "flaky-1"), (ON, "flaky-1")} <= kinds
    scores = [s for p in range(5) for s in store.scores("H", f"P{p}")]
    status = {s.status for s in scores}
    assert {"ok", "degraded"} <= status
    assert any(s.reason == "flaky-1 failed: OSError" for s in scores if s.status == "degraded")
    same_again(store, tmp_path, Flaky())


def test_a_scorer_that_is_gone_is_left_alone_and_comes_back_with_its_memory(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=1)
    gone = [False]
    flaky = Flaky(fails=lambda: gone[0])
    worker = Worker(store, make_fold(flaky), name="w", ttl=3600, recover=0.0)
    worker.keep_leases(now=True)
    events = [e for e in feed(9, patients=6) if e[1] is None or e[2][3] == e[0]]
    third = len(events) // 3
    play(store, worker, events[:third], group=1000)
    worker._recover = None
    gone[0] = True
    play(store, worker, events[third : 2 * third], group=1000)
    rows = store.journal()
    # Some failed one by one, then it was left alone for all.
    assert len(rows) <= 5 and (rows[-1].kind, rows[-1].patient) == (OFF, "")
    calls = flaky.calls
    gone[0] = False
    worker._recover, worker._parts[0]._retry = 0.0, 0.0
    play(store, worker, events[2 * third :], group=1000)
    assert store.journal()[-1].kind == ON and flaky.calls > calls
    truth = open_store(tmp_path / "truth.db", partitions=1)
    well = Worker(truth, make_fold(Flaky()), name="w", ttl=3600)
    well.keep_leases(now=True)
    play(truth, well, events, group=1000)
    for p in range(6):
        told, wanted = store.scores("H", f"P{p}"), truth.scores("H", f"P{p}")
        pairs = [(a.risk, b.risk) for a, b in zip(told, wanted, strict=True) if a.status == "ok"]
        assert 4 < len(pairs) < len(wanted)
        assert all(a == b for a, b in pairs)
    same_again(store, tmp_path, Flaky())


def test_an_event_that_was_left_out_is_left_out_again(tmp_path):
    class Poisoned(Fold):
        sick = True

        def _measured(self, state, body, **options):
            super()._measured(state, body, **options)
            if self.sick and any(item[2] > 149 for item in body["items"]):
                raise MemoryError

    def poisoned(sick: bool) -> Fold:
        fold = Poisoned(Ladder([Flaky(), RuleScorer("news2")]), AlarmPolicy(0.3))
        fold.sick = sick
        return fold

    store = open_store(tmp_path / "s.db", partitions=2)
    worker = Worker(store, poisoned(True), name="w", ttl=3600)
    worker.keep_leases(now=True)
    events = feed(3)
    n = next(i for i, e in enumerate(events) if i > 20 and e[2] is not None)
    events[n] = (*events[n][:2], [*events[n][2][:2], 149.5, *events[n][2][3:]])
    play(store, worker, events)
    rows = [r for r in store.journal() if r.kind == SKIP]
    assert len(rows) == 1 and rows[0].reason == "MemoryError"
    for batch in (1, 100):
        again = open_store(tmp_path / f"a{batch}.db", partitions=2)
        rebuild(store, again, lambda: poisoned(False), batch=batch)
        assert again.fingerprint() == store.fingerprint()


def test_who_is_left_alone_when():
    def row(at, kind, version="m", patient="") -> JournalRow:
        return JournalRow(0, at, "H" if patient else "", patient, version, kind, "E")

    held = Availability([row(5, OFF, patient="a"), row(9, OFF), row(12, ON)], applied=3)
    assert held.off(4, "H", "a") == {} and held.off(5, "H", "a") == {"m": "E"}
    assert held.off(8, "H", "b") == {} and held.off(9, "H", "b") == {"m": "E"}
    assert held.off(12, "H", "a") == {} and not held.any_off
    held.advance(10)
    assert held.any_off and held.versions() == ["m"] and held.pending == []
    assert not held.failed(11, row(11, OFF, "n", "a")) and not held.failed(
        11, row(14, OFF, "n", "b")
    )
    assert [r.at for r in held.due(12)] == [11]
    assert held.failed(11, row(15, OFF, "n", "c")) and [r.patient for r in held.pending] == [""]
    assert held.off(11, "H", "z") == {"m": "E", "n": "E"}


def test_without_a_journal_the_next_one_speaks_at_once():
    fold = make_fold(Flaky(fails=lambda: True))
    from foretell.serving.worker import PatientState

    nobody = PatientState("H", "P", 0, stay="s", begin=T0)
    assert fold._close(nobody, 1).status in ("degraded", "indeterminate")
    assert fold.ladder.failures["flaky-1"] == 1
