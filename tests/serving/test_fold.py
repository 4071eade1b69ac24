"""The fold: equal to the table pipeline, the same bytes in any batches, alarms once."""

from __future__ import annotations

import hashlib
import random
from types import SimpleNamespace

import numpy as np
import pytest

from foretell.data.clinical.feed import Normaliser, stays_from_feed
from foretell.data.clinical.hl7 import Hl7Reader, Message
from foretell.data.clinical.hl7.writer import Result, result_message, visit_message
from foretell.data.clinical.schema import Schema
from foretell.decisions.alarms import AlarmPolicy, Tier
from foretell.evaluation.clinical import threshold_alarms
from foretell.learners.risk.early_warning import EarlyWarningScore
from foretell.serving.events import Delivery, NewEvent, action, digest, events_of
from foretell.serving.store import open_store
from foretell.serving.worker import Fold, Ladder, RuleScorer, Worker
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

T0 = 1_767_225_600.0
READER, NORMALISER = Hl7Reader(), Normaliser()
CODES = {"8867-4": (60, 150, "/min"), "9279-1": (8, 34, "/min"), "8480-6": (70, 160, "mm[Hg]"),
         "8310-5": (35, 40, "Cel"), "59408-5": (85, 100, "%")}  # fmt: skip


def make_fold(**options) -> Fold:
    ladder = Ladder([RuleScorer("news2"), RuleScorer("sirs")])
    return Fold(ladder, AlarmPolicy(tiers=(Tier("urgent", 0.3),), snooze=3), **options)


def delivery(data: bytes) -> Delivery:
    message = Message.from_bytes(data)
    events, aside = events_of(READER.read(message), NORMALISER)
    content = hashlib.sha256(data).digest()[:16]
    return Delivery("t", message.control_id, content, "ORU", 0.0, events, aside)


def feed(seed: int, patients: int = 4, hours: int = 14, *, delay: float = 5400) -> list:
    """(arrival, time, message) with late, repeated, corrected and deleted results."""
    rng = random.Random(seed)
    out = []
    for p in range(patients):
        name, begin = f"P{p}", T0 + rng.randrange(0, 3600)
        born = visit_message("H", name, "A01", time=begin, control=f"{p}-a", visit=f"V{p}",
                             unit="MICU", admitted=begin, born="19500101", sex="male")  # fmt: skip
        out.append((begin, born))
        for h in range(hours):
            for k in range(rng.randrange(0, 4)):
                time = begin + 3600 * h + rng.randrange(1, 3600)
                results = [
                    Result(c, round(rng.uniform(low, high), 1), unit)
                    for c, (low, high, unit) in CODES.items() if rng.random() < 0.7
                ]  # fmt: skip
                if not results:
                    continue
                control = f"{p}-{h}-{k}"
                data = result_message("H", name, results, time=time, control=control,
                                      visit=f"V{p}")  # fmt: skip
                late = rng.uniform(0, delay) if rng.random() < 0.2 else 0.0
                out.append((time + late, data))
                if rng.random() < 0.1:
                    out.append((time + late + rng.uniform(0, 9000), data))
                if rng.random() < 0.2:
                    status = rng.choice("CCD")
                    fixed = [results[0]._replace(value=results[0].value + 7, status=status)]
                    when = time + rng.uniform(600, 30_000)
                    again = result_message("H", name, fixed, time=time, control=control + "c",
                                           order=control, visit=f"V{p}", sent=when)  # fmt: skip
                    out.append((when, again))
    return sorted(out, key=lambda m: m[0])


def play(store, messages, *, batch: int = 256, group: int = 1, end: float | None = None) -> Worker:
    """Sends messages and ticks in the order of their arrival and folds them."""
    worker = Worker(store, make_fold(), name="w", ttl=3600, batch=batch)
    worker.keep_leases(now=True)
    tick = T0
    waiting = []
    for arrival, data in messages:
        while tick + 600 <= arrival:
            tick += 600
            if waiting:
                store.append(waiting)
                waiting = []
            while worker.work():
                pass
            send_ticks(store, tick)
        waiting.append(delivery(data))
        if len(waiting) >= group:
            store.append(waiting)
            waiting = []
    store.append(waiting)
    while worker.work():
        pass
    if end is not None:
        send_ticks(store, end)
        while worker.work():
            pass
    return worker


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_and_alarms_equal_those_of_the_table(tmp_path, seed):
    messages = feed(seed)
    end = max(arrival for arrival, _ in messages) + 7200
    store = open_store(tmp_path / "s.db", partitions=4)
    play(store, messages, end=end)
    records = [r for _, m in messages for r in READER.read(Message.from_bytes(m))]
    stays = stays_from_feed(records, schema=Schema.default().channels("p19"), until=end)
    table = EarlyWarningScore("news2").evaluate(stays)
    wanted = table.points / 20
    wanted[table.known == 0] = np.nan
    offsets = stays.offsets
    fire = threshold_alarms(np.nan_to_num(wanted, nan=0.0), stays.lengths, 0.3, snooze=3)
    for i, identity in enumerate(stays.ids.tolist()):
        site, _, patient = identity.partition("/")
        scores = store.scores(site, patient)
        truth = wanted[offsets[i] : offsets[i + 1]]
        found = np.array([np.nan if s.risk is None or s.model != "news2-1" else s.risk
                          for s in scores])  # fmt: skip
        n = min(len(found), len(truth))
        assert abs(len(found) - len(truth)) <= 1 and n > 10
        np.testing.assert_allclose(found[:n], truth[:n], atol=1e-6)
        standing = set()
        for row in store.notes(0, 10_000):
            if row.patient == patient and row.kind == "alarm":
                standing.add(row.body["hour"])
            elif row.patient == patient and row.kind == "correction":
                change = row.body["change"] == "retracted"
                (standing.discard if change else standing.add)(row.body["hour"])
        expected = {h + 1 for h in np.flatnonzero(fire[offsets[i] : offsets[i + 1]]).tolist()}
        # Rule scores of stays of which nothing is known do not differ: both are silent.
        assert {h for h in standing if h <= n} == {h for h in expected if h <= n}
    assert any(r.kind == "alarm" for r in store.notes(0, 10_000))


def test_the_same_log_gives_the_same_bytes_in_any_batches(tmp_path):
    messages = feed(5)
    store = open_store(tmp_path / "a.db", partitions=4)
    play(store, messages, end=T0 + 20 * 3600)
    truth = store.fingerprint()
    for batch in (1, 7, 1000):
        again = open_store(tmp_path / f"{batch}.db", partitions=4)
        assert rebuild(store, again, make_fold, batch=batch) == store.head()
        assert again.fingerprint() == truth


def test_a_worker_that_is_replaced_at_any_event_changes_nothing(tmp_path):
    messages = feed(6, patients=3, hours=16)
    store = open_store(tmp_path / "a.db", partitions=4)
    play(store, messages, end=T0 + 40 * 3600)
    assert max(v["alarms"] for v in store.views()) > 1
    again = open_store(tmp_path / "b.db", partitions=4)
    after = 0
    from foretell.serving.events import NewEvent, digest

    while events := store.all_events(after, 3):
        after = events[-1].seq
        rows = []
        for e in events:
            items = e.body.pop("items", [None])
            keys = [(digest(e.seq, i), item) for i, item in enumerate(items)]
            rows.append(NewEvent(e.site, e.patient, e.kind, e.time, e.body, keys, e.partition))
        again.append_events(rows)
        # Nothing in memory: every batch begins from what the store holds.
        worker = Worker(again, make_fold(), name="x", ttl=3600, batch=2)
        worker.keep_leases(now=True)
        while worker.work():
            worker.forget()
            worker.keep_leases(now=True)
    assert again.fingerprint() == store.fingerprint()


def stepwise(store, target) -> None:
    """Folds a log anew with a new worker at every event: nothing is ever held in memory."""
    for k, e in enumerate(store.all_events(0, 10_000)):
        body = dict(e.body)
        items = body.pop("items", [None])
        keys = [(digest(k, i), item) for i, item in enumerate(items)]
        target.append_events([NewEvent(e.site, e.patient, e.kind, e.time, body, keys, e.partition)])
        worker = Worker(target, make_fold(), name="x", ttl=3600)
        worker.keep_leases(now=True)
        while worker.work():
            pass


def test_a_stay_that_goes_on_after_a_merge_is_the_same_after_a_restart(tmp_path):
    store = open_store(tmp_path / "a.db", partitions=2)
    bad = [Result("8867-4", 140.0, "/min"), Result("9279-1", 30.0, "/min")]
    worker = Worker(store, make_fold(), name="w", ttl=3600)
    worker.keep_leases(now=True)
    other = result_message("H", "OLD", bad, time=T0 + 4000, control="3")
    for data in (
        hr(80.0, T0, "1", visit="V"),
        other,
        *(hr(81.0 + k, T0 + 3600 * k, f"h{k}", visit="V") for k in (1, 2, 3)),
        visit_message("H", "P", "A03", time=T0 + 3 * 3600 + 1800, control="4", visit="V"),
        visit_message("H", "P", "A40", time=T0 + 3 * 3600 + 1900, control="5", prior="OLD"),
        visit_message("H", "P", "A13", time=T0 + 3 * 3600 + 2000, control="6", visit="V"),
    ):
        store.append([delivery(data)])
        while worker.work():
            pass
    send_ticks(store, T0 + 6 * 3600)
    while worker.work():
        pass
    assert store.scores("H", "P")[-1].risk == pytest.approx(0.15)
    again = open_store(tmp_path / "b.db", partitions=2)
    stepwise(store, again)
    assert again.fingerprint() == store.fingerprint()


@pytest.mark.parametrize("years", [-900, -20, 900])
@pytest.mark.parametrize("whole", [False, True])
def test_a_mistyped_year_of_an_admission_costs_nothing(tmp_path, years, whole):
    store = open_store(tmp_path / "s.db", partitions=2)
    wrong = T0 + years * 365.25 * 86400
    admit = visit_message("H", "P", "A01", time=wrong if whole else T0, control="1", visit="V",
                          admitted=wrong)  # fmt: skip
    one(store, admit, hr(140.0, T0, "2", visit="V"), tick=T0 + 2 * 3600)
    view = store.state("H", "P").view
    assert view["hour"] == 3 and view["end"] is None and view["risk"] == pytest.approx(0.15)
    assert len(store.scores("H", "P")) <= 2


def one(store, *messages: bytes, tick: float | None = None) -> Worker:
    worker = Worker(store, make_fold(), name="w", ttl=3600)
    worker.keep_leases(now=True)
    for data in messages:
        store.append([delivery(data)])
    while worker.work():
        pass
    if tick is not None:
        send_ticks(store, tick)
        while worker.work():
            pass
    return worker


def hr(value, time, control, **options) -> bytes:
    return result_message("H", "P", [Result("8867-4", value, "/min", None, options.pop("status",
                          "F"))], time=time, control=control, **options)  # fmt: skip


def test_a_late_alarm_is_raised_and_a_wrong_one_is_noted_as_retracted(store):
    bad = [Result("8867-4", 135.0, "/min"), Result("9279-1", 30.0, "/min")]
    first = result_message("H", "P", bad, time=T0 + 60, control="1", order="o")
    one(store, first, tick=T0 + 3700)
    alarms = [r for r in store.notes(0, 10) if r.kind == "alarm"]
    assert len(alarms) == 1
    fixed = [r._replace(value=v, status="C") for r, v in zip(bad, (80.0, 15.0), strict=True)]
    again = result_message("H", "P", fixed, time=T0 + 60, control="2", order="o", sent=T0 + 3800)
    one(store, again)
    kinds = [(r.kind, r.body.get("change")) for r in store.notes(0, 10)]
    assert kinds == [("alarm", None), ("correction", "retracted")]
    (note,) = [r for r in store.notes(0, 10) if r.kind == "correction"]
    # So that a receiver can tell the alarm as it was.
    assert (note.body["tier"], note.body["raised"]) == (alarms[0].body["tier"], alarms[0].time)
    scores = store.scores("H", "P")
    assert scores[0].risk == 0.0 and scores[0].issued == pytest.approx(0.3)


def test_a_correction_of_a_sealed_hour_computes_the_stay_anew(store):
    one(store, hr(180.0, T0 + 60, "1", order="o"), tick=T0 + 10 * 3600)
    assert [s.risk for s in store.scores("H", "P")][-1] == pytest.approx(0.15)
    late = hr(70.0, T0 + 60, "2", order="o", status="C", sent=T0 + 10 * 3600 + 60)
    one(store, late)
    scores = store.scores("H", "P")
    assert [s.risk for s in scores] == [0.0] * len(scores) and len(scores) >= 9
    assert [s.issued for s in scores] == pytest.approx([0.15] * len(scores))


def test_a_correction_without_a_number_takes_the_number_back(store):
    one(store, hr(180.0, T0 + 60, "1", order="o"), tick=T0 + 10 * 3600)
    assert store.state("H", "P").view["drivers"]
    sent = T0 + 10 * 3600 + 60
    one(store, hr("artefact", T0 + 60, "2", order="o", status="C", sent=sent))
    assert store.quarantine() == [] and not store.state("H", "P").view["drivers"]
    assert {s.drivers for s in store.scores("H", "P")} == {()}


def test_a_correction_of_a_sealed_hour_may_state_another_time(store):
    one(store, hr(180.0, T0 + 60, "1", order="o"), tick=T0 + 10 * 3600)
    # As where an hour of a clock comes twice: it is read as the second of them.
    late = hr(70.0, T0 + 9 * 3600, "2", order="o", status="C", sent=T0 + 10 * 3600 + 60)
    one(store, late)
    scores = store.scores("H", "P")
    assert [s.risk for s in scores] == [0.0] * len(scores)
    assert dict(store.state("H", "P").view["drivers"]) == {}


def test_a_result_beyond_the_watermark_counts_from_the_open_hour(store):
    one(store, hr(80.0, T0, "0"), tick=T0 + 6 * 3600)
    closed = len(store.scores("H", "P"))
    one(store, hr(180.0, T0 + 1800, "1"), tick=T0 + 8 * 3600)
    risks = [s.risk for s in store.scores("H", "P")]
    assert all(r == 0.0 for r in risks[:closed])
    assert risks[closed] == pytest.approx(0.15)
    assert store.state("H", "P").view["late"] == 1


def test_merged_patients_are_one_from_then_on(store):
    one(store, result_message("H", "OLD", [Result("8867-4", 140.0, "/min")], time=T0 + 60,
                              control="1"), hr(80.0, T0 + 120, "2"), tick=T0 + 3600)  # fmt: skip
    merge = visit_message("H", "P", "A40", time=T0 + 3700, control="3", prior="OLD")
    after = result_message("H", "OLD", [Result("9279-1", 30.0, "/min")], time=T0 + 3800,
                           control="4")  # fmt: skip
    one(store, merge, after, tick=T0 + 2 * 3600 + 200)
    assert store.state("H", "OLD").due is None
    view = store.state("H", "P").view
    assert dict(view["drivers"])["Resp"] == 3.0
    assert view["end"] is None
    # A repeat, and a merge of a patient with themselves, change nothing.
    before = store.fingerprint()
    one(store, merge, visit_message("H", "P", "A40", time=T0, control="9", prior="P"))
    assert store.fingerprint() == before


def test_admissions_transfers_and_discharges(store):
    admit = visit_message("H", "P", "A01", time=T0, control="1", visit="V", unit="MICU",
                          admitted=T0, born="19400601", sex="F")  # fmt: skip
    one(store, admit, hr(90.0, T0 + 60, "2", visit="V"), tick=T0 + 3600)
    view = store.state("H", "P").view
    assert (view["unit"], view["age"], view["sex"], view["stay"]) == ("MICU", 85.0, "female", "V")
    one(store, visit_message("H", "P", "A02", time=T0 + 4000, control="3", visit="V", unit="SICU"))
    assert store.state("H", "P").view["unit"] == "SICU"
    one(store, visit_message("H", "P", "A12", time=T0 + 4100, control="4", visit="V"))
    assert store.state("H", "P").view["unit"] == "MICU"
    one(store, visit_message("H", "P", "A03", time=T0 + 7300, control="5", visit="V"))
    assert store.state("H", "P").due is None and store.views() == []
    one(store, visit_message("H", "P", "A13", time=T0 + 7400, control="6", visit="V"))
    assert store.state("H", "P").due is not None
    one(store, visit_message("H", "P", "A11", time=T0 + 7500, control="7", visit="V"))
    assert store.state("H", "P").view["end"] == "cancelled"
    one(store, visit_message("H", "P", "A01", time=T0 + 9e4, control="8", visit="V2", admitted=T0
                             + 9e4))  # fmt: skip
    assert store.state("H", "P").view["stay"] == "V2"


def test_a_stay_that_nobody_hears_of_ends(store):
    one(store, hr(90.0, T0, "1"), tick=T0 + 200 * 3600)
    assert store.state("H", "P").view["end"] == "idle"
    assert len(store.scores("H", "P")) == 72


def test_actions_silence_and_are_replayed(store):
    bad = [Result("8867-4", 135.0, "/min"), Result("9279-1", 30.0, "/min")]
    one(store, result_message("H", "P", bad, time=T0, control="1"))
    told = {"action": "suppress", "hours": 4, "reason": "palliative care", "by": "dr"}
    store.append_events([action("H", "P", told, T0 + 10, b"k" * 16)])
    assert store.append_events([action("H", "P", told, T0 + 10, b"k" * 16)]) == 0
    one(store, tick=T0 + 3600 * 6)
    alarms = [r.body["hour"] for r in store.notes(0, 10) if r.kind == "alarm"]
    assert alarms == [5]


class Broken:
    version, scaled = "broken-1", False

    def __init__(self):
        self.builder = RuleScorer("news2").builder

    def state0(self):
        return {}

    def step(self, state, features):
        raise RuntimeError("no such file")


def test_a_model_that_fails_hands_over_to_a_rule(store):
    ladder = Ladder([Broken(), RuleScorer("news2")])
    worker = Worker(store, Fold(ladder, AlarmPolicy(0.35)), name="w", ttl=3600)
    worker.keep_leases(now=True)
    store.append([delivery(hr(140.0, T0, "1"))])
    while worker.work():
        pass
    send_ticks(store, T0 + 3600)
    while worker.work():
        pass
    score = store.scores("H", "P")[0]
    assert (score.status, score.model) == ("degraded", "news2-1")
    assert "broken-1 failed: RuntimeError" == score.reason and ladder.failures["broken-1"] > 0
    nothing = Ladder([Broken()])
    _, risk, _ = nothing.step([{}], [np.zeros(34, np.float32)])
    assert risk.status == "no_score" and risk.value is None


def test_a_stay_that_is_heard_of_again_goes_on(store):
    one(store, hr(90.0, T0, "1"), tick=T0 + 100 * 3600)
    assert store.state("H", "P").view["end"] == "idle"
    one(store, hr(140.0, T0 + 101 * 3600, "2"), tick=T0 + 103 * 3600)
    assert store.state("H", "P").view["end"] is None
    assert store.scores("H", "P")[-1].risk == pytest.approx(0.15)


class Poisoned(Fold):
    def _measured(self, state, body, **options):
        super()._measured(state, body, **options)
        if any(item[2] == 13.0 for item in body["items"]):
            raise ZeroDivisionError


def test_an_event_that_cannot_be_folded_stops_nobody(store):
    ladder = Ladder([RuleScorer("news2")])
    worker = Worker(store, Poisoned(ladder, AlarmPolicy(0.35)), name="w", ttl=3600)
    worker.keep_leases(now=True)
    other = result_message("H", "Q", [Result("8867-4", 120.0, "/min")], time=T0, control="q")
    store.append([delivery(hr(80.0, T0, "1")), delivery(hr(13.0, T0 + 1, "2")), delivery(other),
                  delivery(hr(140.0, T0 + 2, "3"))])  # fmt: skip
    for _ in range(20):
        worker.work()
    assert store.counts()["lag"] == 0
    assert store.state("H", "P").view["results"] == 2
    assert store.state("H", "Q").view["results"] == 1


def test_a_clock_that_jumps_does_not_close_hours(store):
    from foretell.serving.worker.ticks import Ticker

    one(store, hr(80.0, T0, "1"))
    now = [T0 + 60.0]
    ticker = Ticker(store, clock=lambda: now[0], every=5.0)
    ticker.once()
    beat = store.mark("heartbeat")
    now[0] = T0 + 90 * 3600
    assert ticker.once() == 0 and store.mark("heartbeat") == beat
    now[0] = T0 + 65.0
    ticker.once()
    assert store.mark("heartbeat") != beat and store.state("H", "P").view["hour"] == 1


def test_a_batch_longer_than_a_lease_does_not_lose_it(store, monkeypatch):
    now, other, taken = [T0], store.another(), []

    class Slow(RuleScorer):
        def step(self, state, features):
            now[0] += 0.05
            taken.extend(other.acquire("work", "other", 0.8, 4))
            return super().step(state, features)

    # All go by the same clock, which stands still but for the scorer.
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    for name in ("worker", "leases"):
        monkeypatch.setattr(f"foretell.serving.worker.{name}.time", clock)
    monkeypatch.setattr(type(store), "_now", lambda _: now[0])
    fold = Fold(Ladder([Slow("news2")]), AlarmPolicy(0.35))
    worker = Worker(store, fold, name="slow", ttl=0.8)
    for p in range(8):
        data = result_message("H", f"P{p}", [Result("8867-4", 80.0, "/min")], time=T0,
                              control=f"c{p}")  # fmt: skip
        store.append([delivery(data)])
    worker.keep_leases()
    tokens = {p: lease.token for p, lease in worker.leases.items()}
    while worker.work():
        pass
    send_ticks(store, T0 + 3 * 3600, everywhere=True)
    begun = now[0]
    while worker.work():
        pass
    # Eight patients of three hours, and what is shown of them.
    assert now[0] - begun > 1.19
    assert not taken and tokens == {p: lease.token for p, lease in worker.leases.items()}
    assert all(store.state("H", f"P{p}").view["hour"] == 4 for p in range(8))
    other.close()


def test_what_was_known_before_a_discharge_counts_after_it(store):
    worker = Worker(store, make_fold(), name="w", ttl=3600)
    worker.keep_leases()

    def told(*messages: bytes) -> None:
        store.append([delivery(m) for m in messages])
        while worker.work():
            pass

    def pulse(value: float, hours: float, control: str, order: str, status: str = "F") -> bytes:
        result = [Result("8867-4", value, "/min", T0 + 3600 * min(hours, 3.5), status)]
        return result_message("H", "P", result, time=T0, control=control, order=order,
                              visit="V", sent=T0 + 3600 * hours)  # fmt: skip

    visit = {"visit": "V", "unit": "MICU", "admitted": T0, "born": "19500101", "sex": "male"}
    told(visit_message("H", "P", "A01", time=T0, control="a", **visit), pulse(80, 0.5, "1", "1"))
    send_ticks(store, T0 + 5 * 3600, everywhere=True)
    told(visit_message("H", "P", "A03", time=T0 + 5 * 3600, control="b", visit="V"))
    before = [s.risk for s in store.scores("H", "P")]
    assert len(before) == 5 and len(set(before)) == 1
    # A late result of the fourth hour, and a correction of one that was told hours ago.
    told(pulse(135, 3.5, "2", "2"))
    after = [s.risk for s in store.scores("H", "P")]
    assert after[:3] == before[:3] and after[3] > before[3] and after[4] == after[3]
    late = [Result("8867-4", 120.0, "/min", T0 + 1800, "C")]
    told(result_message("H", "P", late, time=T0, control="3", order="1", visit="V",
                        sent=T0 + 9 * 3600))  # fmt: skip
    mended = [s.risk for s in store.scores("H", "P")]
    assert mended[0] > before[0] and mended[3:] == after[3:]
    # What became known after the discharge is no part of the stay.
    told(pulse(80, 6.0, "4", "4"))
    assert [s.risk for s in store.scores("H", "P")] == mended
    view = store.state("H", "P").view
    assert (view["end"], view["left_out"]) == ("discharged", 1)


def adt(kind, time, control, **options) -> bytes:
    return visit_message("H", "P", kind, time=time, control=control, **options)


def test_an_old_specimen_does_not_count_as_of_now(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=2)
    days = T0 + 50 * 3600
    one(store, adt("A01", T0, "a", visit="V", admitted=T0), *(hr(80.0, T0 + 3600 * k, f"h{k}")
        for k in range(1, 50, 6)), tick=days)  # fmt: skip
    old = hr(180.0, T0 + 600, "1", order="o", sent=days + 60)
    fresh = hr(81.0, T0 + 3 * 3600, "2", order="p", sent=days + 60)
    one(store, old, fresh)
    view = store.state("H", "P").view
    # 180 a minute would be 3 points; 81, two hours short of two days old, counts.
    assert view["risk"] == 0.0 and view["doubts"] == {"old_specimen": 1}
    assert "too old" in view["reason"] and view["status"] == "ok"
    # A sender that says it was known at once does not make it newer.
    one(store, hr(180.0, T0 + 900, "3", order="q"))
    assert store.state("H", "P").view["doubts"] == {"old_specimen": 2}
    assert store.state("H", "P").view["risk"] == 0.0 and store.state("H", "P").view["late"] == 0
    one(store, tick=days + 2 * 3600)
    told = [s.hour for s in store.scores("H", "P") if "too old" in (s.reason or "")]
    assert told == [51] and store.state("H", "P").view["doubts"] == {"old_specimen": 2}
    # A correction of it does not make it count either; an earlier version does.
    one(store, hr(190.0, T0 + 600, "4", order="o", status="C", sent=days + 2 * 3600))
    assert store.state("H", "P").view["risk"] == 0.0
    one(store, hr(180.0, T0 + 600, "5", order="o", status="P", sent=T0 + 45 * 3600))
    assert store.state("H", "P").view["risk"] == pytest.approx(0.15)
    again = open_store(tmp_path / "b.db", partitions=2)
    stepwise(store, again)
    assert again.fingerprint() == store.fingerprint()


def test_two_descriptions_of_one_patient_are_told(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=2)
    who = {"visit": "V", "admitted": T0, "born": "19500601", "sex": "F"}
    one(store, adt("A01", T0, "1", **who), hr(80.0, T0 + 60, "2", visit="V"), tick=T0 + 3600)
    one(store, adt("A08", T0 + 4000, "3", **{**who, "born": "19510601"}))
    assert store.state("H", "P").view["doubts"] == {}
    one(store, adt("A08", T0 + 4100, "4", **{**who, "sex": "M"}),
        adt("A08", T0 + 4200, "5", **{**who, "born": "19800601", "sex": "M"}),
        adt("A08", T0 + 4300, "6", **{**who, "born": "20800601", "sex": "M"}))  # fmt: skip
    view = store.state("H", "P").view
    # The last word counts, but not in silence.
    assert (view["age"], view["sex"]) == (45.0, "male")
    found = {"contradictory_age": 1, "contradictory_sex": 1, "impossible_age": 1}
    assert view["doubts"] == found and view["reason"].count("is it one patient?") == 2
    one(store, tick=T0 + 3 * 3600)
    assert [bool(s.reason) for s in store.scores("H", "P")] == [False, True, False]
    # Somebody else's record is merged into this one.
    other = visit_message("H", "Q", "A01", time=T0, control="7", **{**who, "visit": "W"})
    merge = visit_message("H", "P", "A40", time=T0 + 3 * 3600 + 60, control="8", prior="Q")
    one(store, other, merge, tick=T0 + 4 * 3600)
    view = store.state("H", "P").view
    assert view["doubts"] == {k: n + (k != "impossible_age") for k, n in found.items()}
    assert (view["age"], view["sex"]) == (45.0, "male")
    assert "one patient" in (store.scores("H", "P")[3].reason or "")
    again = open_store(tmp_path / "b.db", partitions=2)
    stepwise(store, again)
    assert again.fingerprint() == store.fingerprint()


def test_results_that_describe_somebody_else_are_told(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=2)
    who = {"visit": "V", "admitted": T0, "born": "19500601", "sex": "F"}

    def described(value, hour, control, born, sex):
        data = hr(value, T0 + 3600 * hour + 60, control, visit="V")
        pid = next(s for s in data.split(b"\r") if s.startswith(b"PID"))
        return data.replace(pid, b"PID|1||P||X^Y||" + born + b"|" + sex)

    one(store, adt("A01", T0, "1", **who), described(80.0, 0, "2", b"19500601", b"F"),
        described(81.0, 0, "3", b"1950", b""), tick=T0 + 3600)  # fmt: skip
    assert store.state("H", "P").view["doubts"] == {}
    one(store, described(90.0, 1, "4", b"19880101", b"M"), tick=T0 + 2 * 3600)
    view = store.state("H", "P").view
    assert view["doubts"] == {"contradictory_age": 1, "contradictory_sex": 1}
    # Who the patient is, says the admission.
    assert (view["age"], view["sex"], view["results"]) == (75.0, "female", 3)
    assert [bool(s.reason) for s in store.scores("H", "P")] == [False, True]
    again = open_store(tmp_path / "b.db", partitions=2)
    stepwise(store, again)
    assert again.fingerprint() == store.fingerprint()
