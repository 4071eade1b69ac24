"""What a live stay is offered to measure: for as long as somebody may see it, then not again."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest

from foretell.data.clinical.feature_spec import FeatureSpec
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.decisions.alarms import AlarmPolicy, Tier
from foretell.serving.events import MEASURED, ORDER, Event, NewEvent, action, digest, tick
from foretell.serving.store import open_store
from foretell.serving.worker import Fold, Ladder, Worker
from foretell.serving.worker.advice import Adviser, told
from foretell.serving.worker.lineup import Lineup
from foretell.serving.worker.scorer import Risk
from foretell.serving.worker.state import PatientState, dump, load
from foretell.serving.worker.worker import rebuild

T0 = 1_767_225_600.0
WEIGHTS = {"Lactate": 0.8, "WBC": 0.6, "pH": 0.2}
LACTATE = "2524-7"


class Advising:
    """A risk that lactate, leucocytes and pH move, in this order."""

    version, scaled = "advising-1", False

    def __init__(self) -> None:
        self.builder = CausalFeatureBuilder(FeatureSpec(blocks=("last",), static=()))
        names = [f"{c}:last" for c in self.builder.schema.names]
        self._weights = np.array([WEIGHTS.get(n.partition(":")[0], 0.0) for n in names])
        self._adviser = Adviser(names, self.builder.schema)
        self.calls = 0

    def state0(self):
        size = len(self.builder.schema)
        return {"since": np.full(size, 1000, np.int64), "known": np.zeros(size, bool)}

    def step(self, state, features):
        moved = float(np.nan_to_num(features) @ self._weights)
        new = np.isfinite(features) & ~state["known"]
        held = {"since": np.where(new, 0, state["since"] + 1), "known": state["known"] | new}
        return held, Risk(1 / (1 + math.exp(-moved / 9)), model=self.version)

    @property
    def panels(self):
        return self._adviser.channels

    def advise(self, state, features, after, *, risk, hour, ordered, asked):
        self.calls += 1

        def predict(table):
            return 1 / (1 + np.exp(-np.asarray(table, np.float64) @ self._weights))

        return told(
            self._adviser(
                predict, np.zeros(len(features)), after["since"], after["known"], risk=risk,
                hour=hour, ordered=ordered, asked=asked,
            )
        )  # fmt: skip

    def still(self, offers, after, *, ordered):
        there = self._adviser.open(after["since"], after["known"], ordered)
        return [o for o in offers if o["panel"] in there]


def make_fold() -> Fold:
    return Fold(Ladder([Advising()]), AlarmPolicy(tiers=(Tier("urgent", 0.3),)), watermark=2)


def measured(channel: str, value: float, at: float) -> NewEvent:
    item = [digest(channel, at).hex()[:16], channel, value, T0 + at, T0 + at, 1]
    body = {"visit": "V"}
    return NewEvent("H", "P", MEASURED, T0 + at, body, [(digest("m", channel, at), item)])


def ordered(status: str, at: float) -> NewEvent:
    body = {"visit": "V", "codes": [["LN", LACTATE]], "number": "1", "status": status,
            "kind": "test"}  # fmt: skip
    return NewEvent("H", "P", ORDER, T0 + at, body, [(digest("o", status, at), None)])


def played(store, events, *, forget: bool = False) -> dict[int, list[str]]:
    """Folds events and hourly ticks; returns what is offered in the middle of each hour."""
    worker = Worker(store, make_fold(), name="w", ttl=3600)
    worker.keep_leases(now=True)
    out = {}

    def step(rows):
        store.append_events(rows)
        while worker.work():
            pass
        if forget:
            worker.forget()
            worker.keep_leases(now=True)

    for hour in range(1, 18):
        for event in events:
            if T0 + 3600 * (hour - 1) <= event.time < T0 + 3600 * hour:
                step([event])
        view = store.state("H", "P").view
        assert view["hour"] == hour
        out[hour] = [r["panel"] for r in view["recommended"]]
        for r in view["recommended"]:
            assert r["result_by"] >= hour - 2
        step([tick(p, T0 + 3600 * hour) for p in range(store.partitions)])
    return out


HEART = [measured("HR", 80.0 + h, 3600.0 * h + (60 if h else 0)) for h in range(17)]


def test_an_offer_stands_two_hours_and_is_not_repeated_for_six(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=1)
    found = played(store, HEART)
    both = ["lactate", "blood count"]
    # Neither goes on about them, nor goes through all other panels meanwhile.
    expected = {2: both, 3: both, 9: both, 10: both, 16: both, 17: both}
    assert found == {h: expected.get(h, []) for h in found}


def test_what_was_measured_makes_room(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=1)
    found = played(store, [*HEART, measured("Lactate", 2.0, 2 * 3600 + 120)])
    # At once, not as the hour closes; what takes its place is asked for then.
    assert found[2] == ["lactate", "blood count"] and found[3] == ["blood count"]
    assert found[4] == ["blood gas"]


def test_a_stranger_is_asked_for_at_once_whatever_hours_went_by():
    """Nobody was offered anything as those hours closed."""
    fold = make_fold()
    fold.watched = False
    for hours in range(12):
        state = PatientState("H", "P", 0)
        for k in range(hours + 1):
            given = measured("HR", 90.0 + k, 3600 * k + 60)
            items = [item for _, item in given.items]
            body = {**given.body, "items": items}
            fold.apply(state, Event(0, 0, "H", "P", given.kind, given.time, body, 0.0))
        fold.pass_time(state, state.last)
        view = fold.view(state)
        assert view["hour"] == hours + 1
        assert [r["panel"] for r in view["recommended"]] == ["lactate", "blood count"]
    assert fold.ladder.scorers[0].calls == 12, "hours that closed unwatched were not asked"


def test_offers_of_a_model_that_no_longer_speaks_are_shown_no_more():
    other = Advising()
    other.version = "advising-2"
    policy = AlarmPolicy(tiers=(Tier("urgent", 0.3),))
    fold = Fold(Ladder([Advising(), other]), policy, watermark=2)
    state = PatientState("H", "P", 0)
    speaks = Lineup("advising-1").to_json()
    fold.prepare(state, {}, speaks)
    given = measured("HR", 90.0, 60)
    body = {**given.body, "items": [item for _, item in given.items]}
    fold.apply(state, Event(0, 0, "H", "P", given.kind, given.time, body, 0.0))
    fold.pass_time(state, T0 + 3700)
    fold.prepare(state, {}, speaks)
    assert len(fold.view(state)["recommended"]) == 2
    fold.prepare(state, {}, Lineup("advising-2").to_json())
    view = fold.view(state)
    assert (view["model"], view["recommended"]) == ("advising-2", [])
    # The other one is asked as its first hour closes.
    fold.pass_time(state, T0 + 7300)
    assert fold.ladder.scorers[1].calls == 1


def test_what_is_ordered_makes_room_until_it_comes(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=1)
    found = played(store, [*HEART, ordered("pending", 3600 + 120)])
    assert found[2] == ["blood count"]
    # Lactate is on its way for the rest of the stay, so that it is never offered.
    assert all("lactate" not in panels for panels in found.values())


def test_what_was_offered_is_the_same_in_every_replay(tmp_path):
    events = [*HEART, measured("WBC", 9.0, 4 * 3600 + 60), measured("Lactate", 2.0, 9 * 3600 + 60)]
    store = open_store(tmp_path / "a.db", partitions=1)
    first = played(store, events)
    again = open_store(tmp_path / "b.db", partitions=1)
    assert played(again, events, forget=True) == first
    assert again.fingerprint() == store.fingerprint()
    for batch in (1, 5, 1000):
        # Hours close many at once: nobody looked in between.
        other = open_store(tmp_path / f"{batch}.db", partitions=1)
        rebuild(store, other, make_fold, batch=batch)
        assert other.fingerprint() == store.fingerprint()
    assert load(store.state("H", "P").body).asked
    # The same leucocytes and lactate say what they did to the risk, once each.
    answered = store.state("H", "P").view["answered"]
    assert [(a["panel"], a["offered"], a["measured"]) for a in answered] == [
        ("blood count", 1, 5), ("lactate", 8, 10)
    ]  # fmt: skip
    risks = {s.hour: s.risk for s in store.scores("H", "P")}
    assert all((a["before"], a["after"]) == (risks[a["measured"] - 1], risks[a["measured"]])
               and a["before"] < a["after"] for a in answered)  # fmt: skip


def test_who_wants_no_alarms_for_a_reason_is_offered_nothing(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=1)
    comfort = {"action": "suppress", "hours": 4, "reason": "comfort care", "by": "dr"}
    found = played(store, [*HEART, action("H", "P", comfort, T0 + 30, b"k" * 16)])
    assert [h for h in found if found[h]][:2] == [6, 7]


def test_what_to_measure_is_asked_as_hours_close_however_often_a_stay_is_heard(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=1)
    fold = make_fold()
    worker = Worker(store, fold, name="w", ttl=3600)
    worker.keep_leases(now=True)
    for k in range(6):
        heard = [measured("HR", 80.0 + m, 3600.0 * k + 60 * m) for m in range(1, 8)]
        for event in [*([tick(0, T0 + 3600 * k)] if k else []), *heard]:
            store.append_events([event])
            while worker.work():
                pass
    assert fold.ladder.scorers[0].calls == store.state("H", "P").view["hour"] - 1 == 4


def test_snapshots_without_offers_are_the_bytes_they_were_and_are_read(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=1)
    played(store, HEART)
    body = store.state("H", "P").body
    form, size, packed = struct.unpack_from("<BII", body)
    at = struct.calcsize("<BII")
    head = json.loads(body[at : at + size])
    assert head.pop("asked") == {"lactate": 15, "blood count": 15}
    text = json.dumps(head, separators=(",", ":"), sort_keys=True).encode()
    old = struct.pack("<BII", form, len(text), packed) + text + body[at + size :]
    state = make_fold().restore(old)
    assert state.asked == {} and dump(state) == old
    state.asked["lactate"] = 15
    state.offers = [{"gain": 0.5, "panel": "lactate"}]
    again = load(dump(state))
    assert again.asked == {"lactate": 15} and again.offers == state.offers


@pytest.mark.parametrize("panel", ["lactate", "a panel of another model"])
def test_offers_of_another_model_do_not_stop_this_one(panel):
    scorer = Advising()
    stream = scorer.builder.stream(scaled=False)
    features = stream.step(np.full(len(scorer.builder.schema), np.nan, np.float32))
    after, _ = scorer.step(scorer.state0(), features)
    found = scorer.advise({}, features, after, risk=0.5, hour=4, ordered=(), asked={panel: 1})
    names = [r["panel"] for r in found]
    assert names == (["blood count"] if panel == "lactate" else ["lactate", "blood count"])
