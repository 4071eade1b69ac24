"""Workers that are behind: what they leave owing, whom they serve first, what must not change."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from foretell.data.clinical import CausalFeatureBuilder, FeatureSpec
from foretell.decisions.alarms import AlarmPolicy, Tier
from foretell.errors import ParameterError
from foretell.serving.events import MEASURED, NewEvent, digest
from foretell.serving.metrics import Metrics
from foretell.serving.store import open_store
from foretell.serving.store.base import StateRow, StayRow
from foretell.serving.worker import Fold, Ladder, Risk, RuleScorer, Worker
from foretell.serving.worker.availability import OWE, SETTLE, SPARE, Availability, JournalRow, lot
from foretell.serving.worker.overload import Overload
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

T0 = 1_767_225_600.0
SPEC = FeatureSpec(blocks=("last",), static=())


class Counting:
    """Remembers the hours it has seen, counts them, and fails when it is told to."""

    scaled = False

    def __init__(self, fails=lambda: False) -> None:
        self.version, self.fails, self.calls = "counting-1", fails, 0
        self.builder, self.bad = CausalFeatureBuilder(SPEC), None

    def state0(self):
        return {"seen": np.zeros(1)}

    def step(self, state, features):
        self.calls += 1
        heart = float(np.nan_to_num(features[0], nan=60.0))
        if self.fails() or heart == self.bad:
            raise OSError("the disk is away")
        seen = np.float64(0.9) * state["seen"] + heart
        return {"seen": seen}, Risk(
            float(1 / (1 + np.exp(4 - seen[0] / 200))), model=self.version,
            drivers=(("HR", round(heart, 6)),),
        )  # fmt: skip


def make_fold(scorer=None, threshold: float = 0.3) -> Fold:
    ladder = Ladder([scorer or Counting(), RuleScorer("news2")])
    return Fold(ladder, AlarmPolicy(tiers=(Tier("urgent", threshold),), snooze=3), watermark=2)


class Moment:
    """The clock of an overload: events' receipt is the store's, so that this one runs ahead."""

    def __init__(self) -> None:
        import time

        self.ahead, self._time = 0.0, time.time

    def __call__(self) -> float:
        return self._time() + self.ahead


def result(patient: int, value: float, time: float, issued: float, rank: int = 1, n: int = 0):
    group = digest("g", patient, n, time).hex()[:16]
    item = [group, "HR", value, time, issued, rank]
    key = digest("k", patient, n, time, issued, rank, value)
    return NewEvent("A", f"P{patient}", MEASURED, issued, {}, [(key, item)])


def feed(seed: int, patients: int = 6, hours: int = 10) -> list:
    """Results, some late and many of them corrected several times, and the ends of hours."""
    rng = random.Random(seed)
    out: list = []
    for p in range(patients):
        for h in range(hours):
            time = T0 + 3600 * h + rng.randrange(1, 3600)
            late = rng.choice((0, 0, 4000, 20_000))
            out.append(
                (time + late, result(p, rng.uniform(50, 149), time, time + (late > 9000), 1, h))
            )
            for _ in range(rng.choice((0, 0, 1, 4))):
                fixed = time + rng.uniform(100, 30_000)
                out.append((fixed, result(p, rng.uniform(50, 149), time, fixed, 2, h)))
    for h in range(1, hours + 12):
        out.append((T0 + 3600 * h, None))
    return sorted(out, key=lambda e: e[0])


def append(store, events, group: int = 9) -> None:
    waiting = []
    for time, event in events:
        if event is None or len(waiting) >= group:
            store.append_events(waiting)
            waiting = []
        if event is None:
            send_ticks(store, time, everywhere=True)
        else:
            waiting.append(event)
    if waiting:
        store.append_events(waiting)


def drained(worker: Worker) -> None:
    worker.keep_leases(now=True)
    while worker.work():
        pass


def left(worker: Worker) -> None:
    drained(worker)
    worker.leave()


def fresh(tmp_path, name: str):
    return open_store(str(tmp_path / f"{name}.db"), partitions=4)


def rebuilt_alike(tmp_path, store, batch: int) -> None:
    """A replay of the log, by a worker that is never behind, gives the same bytes."""
    again = fresh(tmp_path, "again")
    rebuild(store, again, lambda: make_fold(None, 0.9), batch=batch)
    assert again.fingerprint() == store.fingerprint()
    again.close()


def standing(store) -> set[str]:
    """Alarms that stand in the end."""
    out: set[str] = set()
    for note in store.notes(0, 100_000):
        if note.kind == "alarm":
            out.add(note.body["alarm"])
        elif note.kind == "correction":
            held = out.add if note.body["change"] == "reinstated" else out.discard
            held(note.body["alarm"])
    return out


def scores(store, patients: int = 6) -> list:
    return [row for p in range(patients) for row in store.scores("A", f"P{p}")]


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_behind_says_the_same_in_the_end_and_computes_less(store, tmp_path, seed) -> None:
    events = feed(seed)
    calm, hurried = Counting(), Counting()
    plain = fresh(tmp_path, "plain")
    append(plain, events)
    drained(Worker(plain, make_fold(calm, 0.9), ttl=3600))
    append(store, events)
    clock = Moment()
    clock.ahead = 1000.0
    # Small batches: what is owed outlives the commit, and the worker.
    for k in range(400):
        overload = Overload(60.0, clock=clock)
        worker = Worker(store, make_fold(hurried, 0.9), ttl=3600, batch=1, name=f"w{k}",
                        overload=overload)  # fmt: skip
        worker.keep_leases(now=True)
        count = worker.work()
        worker.leave()
        if not count:
            break
    assert scores(store) == scores(plain)
    assert standing(store) == standing(plain)
    kinds = [row.kind for row in store.journal()]
    assert OWE in kinds and SETTLE in kinds
    counts = store.counts()
    assert counts["overloaded"] == 0 and counts["recompute_owed"] == 0
    rebuilt_alike(tmp_path, store, batch=5)
    # The first issue of every hour is the same, too, and so is what is shown.
    assert store.views() == plain.views()
    plain.close()


def test_recomputation_is_shed_and_ingest_is_not(tmp_path) -> None:
    store = fresh(tmp_path, "s")
    scorer, clock = Counting(), Moment()
    worker = Worker(store, make_fold(scorer, 0.9), ttl=3600, overload=Overload(clock=clock))
    events = [(T0 + 60 * m, result(1, 80.0, T0 + 60 * m, T0 + 60 * m, 1, m)) for m in range(60)]
    append(store, [*events, (T0 + 3600, None), (T0 + 7200, None)], group=1)
    drained(worker)
    calm = scorer.calls
    fixes = [
        (T0 + 7300 + k, result(1, 80.0 + k, T0 + 60, T0 + 7300 + k, 2, 1)) for k in range(1, 40)
    ]
    append(store, fixes[:19], group=1)
    drained(worker)
    one_by_one = scorer.calls - calm
    clock.ahead = 1000.0
    append(store, fixes[19:-1], group=1)
    drained(worker)
    assert scorer.calls - calm - one_by_one < one_by_one / 5
    assert store.counts()["events"] == 60 + 8 + 38
    assert store.counts()["recompute_owed"] == 0
    store.close()


def test_what_is_owed_is_said_until_the_hour_closes(tmp_path) -> None:
    store, clock = fresh(tmp_path, "s"), Moment()
    overload = Overload(clock=clock)
    fold = make_fold(None, 0.9)
    worker = Worker(store, fold, ttl=3600, batch=1, overload=overload)
    append(store, [(T0 + 60, result(1, 80.0, T0 + 60, T0 + 60)), (T0 + 3700, None)])
    drained(worker)
    before = store.state("A", "P1").view
    clock.ahead = 1000.0
    part = store.state("A", "P1").partition
    late = [(T0 + 3800 + k, result(1, 120.0 + k, T0 + 70, T0 + 80, 1, k)) for k in range(40)]
    append(store, late, group=1)
    worker.keep_leases(now=True)
    worker._careful = True  # One event a commit.
    worker.work()
    view = store.state("A", "P1").view
    assert view["owed"] == 1
    assert view["status"] == "degraded" and "behind" in view["reason"]
    assert view["risk"] == store.scores("A", "P1")[0].risk == before["issued"]
    assert view["recommended"] == []
    assert store.counts()["overloaded"] == 1 and store.counts()["recompute_owed"] == 1
    assert [(r.patient, r.owed) for r in store.stays(part)] == [("P1", 1)]
    send_ticks(store, T0 + 7300, everywhere=True)
    while worker.work():
        pass
    view = store.state("A", "P1").view
    assert "owed" not in view and view["status"] == "ok"
    assert store.counts()["overloaded"] == 0 and store.counts()["recompute_owed"] == 0
    store.close()


def test_urgent_stays_do_not_wait(tmp_path) -> None:
    store, clock = fresh(tmp_path, "s"), Moment()
    clock.ahead = 1000.0
    fold = make_fold(None, 0.01)
    worker = Worker(store, fold, ttl=3600, batch=1, overload=Overload(clock=clock))
    append(store, [(T0 + 60, result(1, 120.0, T0 + 60, T0 + 60)), (T0 + 3700, None)])
    append(store, [(T0 + 3750, result(1, 140.0, T0 + 70, T0 + 80)), (T0 + 3800, None)], group=1)
    worker.keep_leases(now=True)
    while worker.work():
        assert store.counts()["recompute_owed"] == 0
    assert any(row.kind == OWE for row in store.journal())
    store.close()


@pytest.mark.parametrize("seed", range(3))
def test_what_cannot_be_computed_stays_owed_and_a_replay_follows(tmp_path, seed) -> None:
    rng = random.Random(seed)
    store, clock = fresh(tmp_path, "s"), Moment()
    clock.ahead = 1000.0
    scorer = Counting(lambda: rng.random() < 0.01)
    append(store, feed(seed))
    for k in range(400):
        worker = Worker(store, make_fold(scorer, 0.9), ttl=3600, batch=8, name=f"w{k}",
                        overload=Overload(clock=clock), recover=0.001)  # fmt: skip
        worker.keep_leases(now=True)
        count = sum(worker.work() for _ in range(4))
        worker.leave()
        if not count:
            break
    assert store.counts()["lag"] == 0
    rebuilt_alike(tmp_path, store, batch=11)
    store.close()


def test_a_patient_whose_hours_fail_holds_up_nobody(tmp_path) -> None:
    store, clock = fresh(tmp_path, "s"), Moment()
    scorer = Counting()
    worker = Worker(store, make_fold(scorer, 0.9), ttl=3600, recover=None,
                    overload=Overload(clock=clock))  # fmt: skip
    append(store, [(T0 + 60, result(p, 80.0, T0 + 60, T0 + 60)) for p in range(6)])
    append(store, [(T0 + 3700, None)])
    drained(worker)
    clock.ahead, scorer.bad = 1000.0, 120.0
    append(store, [(T0 + 3750, result(p, 160.0, T0 + 70, T0 + 80, 1, 1)) for p in range(6)])
    drained(worker)
    assert store.counts()["recompute_owed"] == 6
    assert sum(row.kind == SPARE for row in store.journal()) >= 6
    scorer.bad = None
    append(store, [(T0 + 7300, None)])
    drained(worker)
    assert store.counts()["recompute_owed"] == 0
    rebuilt_alike(tmp_path, store, batch=3)
    store.close()


@pytest.mark.parametrize("careful", [False, True])
def test_a_patient_whose_open_hour_fails_holds_up_nobody(tmp_path, careful) -> None:
    store, clock = fresh(tmp_path, "s"), Moment()
    scorer, metrics = Counting(), Metrics()
    worker = Worker(store, make_fold(scorer, 0.9), ttl=3600, recover=None, watcher=metrics,
                    overload=Overload(clock=clock))  # fmt: skip
    append(store, [(T0 + 60, result(1, 80.0, T0 + 60, T0 + 60)), (T0 + 3700, None)])
    append(store, [(T0 + 3720, result(1, 130.0, T0 + 3710, T0 + 3720, 1, 1))])
    drained(worker)
    clock.ahead = 1000.0
    append(store, [(T0 + 3750, result(1, 160.0, T0 + 70, T0 + 80, 1, 2))])
    worker._careful = True  # What is owed is computed in another commit.
    worker.work()
    assert store.counts()["recompute_owed"] == 1
    worker._careful, scorer.bad = careful, 130.0
    drained(worker)
    assert store.counts()["recompute_owed"] == 1
    assert [row.patient for row in store.journal() if row.kind == SPARE] == ["P1"]
    assert store.state("A", "P1").view["owed"] == 1
    # What the alert on what is owed points to; no scorer is left alone for it.
    lines = metrics.text(store).decode().splitlines()
    assert 'foretell_recompute_owed{site="other"} 1.0' in lines
    assert "foretell_recompute_failures_total 1.0" in lines
    assert not [n for n in lines if n.startswith("foretell_scorer_failures_total{")]
    scorer.bad = None
    append(store, [(T0 + 7300, None)])
    drained(worker)
    assert store.counts()["recompute_owed"] == 0
    rebuilt_alike(tmp_path, store, batch=3)
    store.close()


def test_the_most_urgent_partitions_come_first_and_none_starves() -> None:
    clock = Moment()
    overload = Overload(clock=clock, patience=30, urgent=lambda *_: 0.5)
    overload.take(0, [StayRow("A", "a", 1.0, 0.2, False, None)])
    overload.take(1, [StayRow("A", "b", 1.0, 0.9, False, None)])
    overload.take(
        2, [StayRow("A", "c", 1.0, 0.4, True, None), StayRow("A", "d", 1.0, 0.6, False, None)]
    )
    overload.take(3, [StayRow("A", "e", None, 0.99, True, 3)])
    assert overload.in_turn([0, 1, 2, 3]) == [2, 1, 0, 3]
    overload.seen(StateRow("A", "a", 0, b"", 1.0, {
        "policy": "alarmed", "risk": 0.95, "model": "m", "unit": None
    }))  # fmt: skip
    overload.seen(StateRow("A", "c", 2, b"", None, None))
    assert overload.in_turn([0, 1, 2, 3]) == [0, 1, 2, 3]
    for _ in range(31):
        clock.ahead += 1
        for part in (0, 1, 2):
            overload.folded(part, None)
    assert overload.in_turn([0, 1, 2, 3])[0] == 3
    overload.lose(3)
    assert overload.in_turn([0, 1, 2]) == [0, 1, 2]


def test_partitions_with_high_risks_are_drained_first(store) -> None:
    clock = Moment()
    clock.ahead = 1000.0
    people = {p: None for p in range(40)}
    append(store, [(T0 + 60, result(p, 60.0, T0 + 60, T0 + 60)) for p in people])
    append(store, [(T0 + 3700, None)])
    left(Worker(store, make_fold(None, 0.9), ttl=3600, name="first"))
    for p in people:
        people[p] = store.state("A", f"P{p}").partition
    ill = 3
    append(
        store,
        [(T0 + 3750 + k, result(ill, 149.0, T0 + 3750 + k, T0 + 3750 + k, 1, k)) for k in range(3)],
    )
    left(Worker(store, make_fold(None, 0.2), ttl=3600, name="second"))
    append(store, [(T0 + 3800 + p, result(p, 70.0, T0 + 3800, T0 + 3800)) for p in people])
    fold = make_fold(None, 0.2)
    worker = Worker(store, fold, ttl=3600, batch=1, name="third",
                    overload=Overload(clock=clock, urgent=lambda *_: 0.04))  # fmt: skip
    worker.keep_leases(now=True)
    risks = {p: max(r.risk or 0 for r in store.stays(p)) for p in range(4)}
    assert max(risks, key=risks.get) == people[ill]
    worker._careful = True
    worker.work()
    # That they are behind is known after the first; the next one is the patient's.
    order = worker._in_turn()
    assert order[0].number == people[ill]


def test_points_of_a_rule_are_held_to_the_rules_threshold() -> None:
    # Of the model 0.02 is high; of the rule 0.25 is three points in a patient who is well.
    lowest = {"model": 0.02, "news2-1": 0.35}
    clock = Moment()
    overload = Overload(clock=clock, urgent=lambda site, model, unit: lowest[model])
    ruled = StayRow("A", "a", 1.0, 0.25, False, None, "ward", "news2-1")
    overload.take(0, [ruled, replace(ruled, patient="b")])
    overload.take(1, [StayRow("A", "c", 1.0, 0.03, False, None, "ward", "model")])
    assert overload.in_turn([0, 1]) == [1, 0]
    view = {"policy": "armed", "risk": 0.6, "model": "news2-1", "unit": "ward"}
    overload.seen(StateRow("A", "b", 0, b"", 1.0, view))
    assert overload.in_turn([1, 0]) == [0, 1]


def test_a_stay_of_which_a_rule_speaks_is_urgent_by_the_rules_threshold(tmp_path) -> None:
    class Points(RuleScorer):
        calls = 0

        def step(self, state, features):
            self.calls += 1
            return super().step(state, features)

    def calls(threshold: float) -> int:
        store, clock, scorer = fresh(tmp_path, f"s{threshold}"), Moment(), Points("news2")
        policy = AlarmPolicy(tiers=(Tier("urgent", 0.02),), snooze=3)
        rules = {"news2-1": AlarmPolicy(tiers=(Tier("urgent", threshold),), snooze=3)}
        ladder = Ladder([Counting(lambda: True), scorer])
        fold = Fold(ladder, policy, watermark=12, policies=rules)
        worker = Worker(store, fold, ttl=3600, overload=Overload(clock=clock))
        # Three points of twenty, before and after late results.
        append(store, [(T0 + 60, result(1, 135.0, T0 + 60, T0 + 60))])
        append(store, [(T0 + 3600 * h, None) for h in range(1, 6)])
        drained(worker)
        view = store.state("A", "P1").view
        # An alarm that waits would be urgent by itself.
        assert (view["model"], view["issued"]) == ("news2-1", 0.15)
        assert view["policy"] == "armed"
        clock.ahead, before = 1000.0, scorer.calls
        # Known in the first hour, and sent in the sixth.
        late = [(T0 + 80, result(1, 136.0, T0 + 70, T0 + 80, 1, k)) for k in range(30)]
        append(store, late, group=1)
        drained(worker)
        assert any(row.kind == OWE for row in store.journal())
        store.close()
        return scorer.calls - before

    assert calls(0.35) + 25 < calls(0.1)


def test_the_journal_says_from_when_to_when_hours_were_owed() -> None:
    rows = [
        JournalRow(0, 5, "", "", "", OWE, ""),
        JournalRow(0, 9, "A", "P", "", SPARE, ""),
        JournalRow(0, 9, "", "", "", SETTLE, "ff"),
        JournalRow(0, 12, "", "", "", OWE, ""),
    ]
    held = Availability(rows, applied=6)
    assert [held.owing(seq) for seq in (4, 5, 9, 10, 11, 12, 99)] == [
        False, True, True, False, False, True, True
    ]  # fmt: skip
    assert held.spared(9, "A", "P") and not held.spared(9, "A", "Q")
    assert [row.reason for row in held.settled] == ["ff"]
    assert held.off(9, "A", "P") == {}
    held.pending.append(JournalRow(0, 14, "", "", "", SETTLE, ""))
    assert held.owing(14) and not held.owing(15)
    assert held.due(14) == held.advance(14) == [JournalRow(0, 14, "", "", "", SETTLE, "")]
    assert not held.owing(15) and len(held.settled) == 2
    assert lot("A", "P") != lot("A", "Q") and "P" not in lot("A", "P")


def test_bounds_must_be_positive() -> None:
    with pytest.raises(ParameterError, match="more than 0"):
        Overload(0.0)
