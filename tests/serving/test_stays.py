"""The stays of a table are those that the service saw, also of patients who come back."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest

from foretell.data.clinical.doubts import is_old
from foretell.data.clinical.feed import VisitChange, stays_from_feed
from foretell.data.clinical.hl7 import Message
from foretell.data.clinical.hl7.writer import Result, result_message, visit_message
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.visits import IDLE, visits_of
from foretell.data.clinical.visits import Result as Known
from foretell.learners.risk.early_warning import EarlyWarningScore
from foretell.serving.events import MEASURED, MERGED, VISIT, Event
from foretell.serving.store import open_store
from foretell.serving.worker.state import PatientState
from foretell.serving.worker.worker import rebuild

from .test_fold import CODES, READER, T0, adt, hr, make_fold, one, play


def coming_back(seed: int, patients: int = 8) -> list[tuple[float, bytes]]:
    """(arrival, message) of patients with several stays, told as completely as hospitals do."""
    rng = random.Random(seed)
    out: list[tuple[float, bytes]] = []
    for p in range(patients):
        name, time = f"P{p}", T0 + rng.randrange(0, 3600)
        numbers, told = rng.random() < 0.7, rng.random() < 0.8
        for stay in range(rng.randrange(1, 4)):
            visit = {"visit": f"V{p}-{stay}"} if numbers else {}
            hours = rng.randrange(2, 12)
            control = f"{p}-{stay}"
            if told or not numbers:
                came = visit_message("H", name, "A01", time=time, control=control + "a", unit="ICU",
                                     admitted=time, born="19500101", sex="F", **visit)  # fmt: skip
                out.append((time, came))
            ended = time + 3600 * hours + rng.randrange(0, 3600)
            silent = numbers and stay and rng.random() < 0.3
            if not silent:
                left = visit_message("H", name, "A03", time=ended, control=control + "d", **visit)
                out.append((ended, left))
            # Some results come after the discharge, and some name a visit that is over.
            for k in range(hours + 2):
                for _ in range(rng.randrange(0, 3)):
                    at = time + 3600 * k + rng.randrange(1, 3600)
                    found = [
                        Result(c, round(rng.uniform(low, high), 1), unit)
                        for c, (low, high, unit) in CODES.items() if rng.random() < 0.7
                    ]  # fmt: skip
                    if rng.random() < 0.05:
                        at -= 60 * 3600
                    if found:
                        sent = max(at, time + 3600 * k)
                        out.append((sent, result_message("H", name, found, time=at, sent=sent,
                                    control=f"{control}-{len(out)}", **visit)))  # fmt: skip
            time = ended + 3600 * rng.choice([4, 30, 100]) + rng.randrange(0, 3600)
    return sorted(out, key=lambda m: m[0])


@pytest.mark.parametrize("seed", range(3))
def test_who_comes_back_has_the_stays_that_the_service_saw(tmp_path, seed):
    messages = coming_back(seed)
    store = open_store(tmp_path / "s.db", partitions=4)
    play(store, messages, end=messages[-1][0] + 7200)
    records = [r for _, m in messages for r in READER.read(Message.from_bytes(m))]
    stays = stays_from_feed(records, schema=Schema.default().channels("p19"),
                            until=messages[-1][0] + 7200)  # fmt: skip
    table = EarlyWarningScore("news2").evaluate(stays)
    wanted = table.points / 20
    wanted[table.known == 0] = np.nan
    several = compared = 0
    for patient in sorted(set(stays.patients.tolist())):
        site, _, name = patient.partition("/")
        seen = defaultdict(dict)
        for s in store.scores(site, name):
            known = s.risk is not None and s.model == "news2-1"
            seen[s.stay][s.hour] = (s.time - 3600 * s.hour, s.risk if known else np.nan)
        live = sorted((next(iter(hours.values()))[0], hours) for hours in seen.values())
        mine = [i for i in range(len(stays)) if stays.patients[i] == patient]
        assert len(live) == len(mine), patient
        for i, (_, hours) in zip(mine, live, strict=True):
            truth = wanted[stays.offsets[i] : stays.offsets[i + 1]]
            assert abs(len(hours) - len(truth)) <= 1
            n = min(len(hours), len(truth))
            found = [hours[h][1] for h in range(1, n + 1)]
            np.testing.assert_allclose(found, truth[:n], atol=1e-6, err_msg=patient)
            compared += n
        several += len(mine) > 1
    assert several >= 3 and compared > 80
    assert {n.kind for n in stays.notes} >= {"outside_stays", "old_specimen"}


def test_a_correction_after_the_discharge_counts_where_the_result_stands(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=2)
    one(store, adt("A01", T0, "1", visit="V", admitted=T0),
        hr(180.0, T0 + 60, "2", order="o", visit="V"), tick=T0 + 3 * 3600)  # fmt: skip
    one(store, adt("A03", T0 + 3 * 3600 + 60, "3", visit="V"))
    assert [s.risk for s in store.scores("H", "P")] == pytest.approx([0.15] * 3)
    late = T0 + 9 * 3600
    one(store, hr(80.0, T0 + 60, "4", order="o", visit="V", status="C", sent=late),
        hr(170.0, T0 + 120, "5", order="q", visit="V", sent=late))  # fmt: skip
    scores = store.scores("H", "P")
    assert [s.risk for s in scores] == [0.0] * 3
    assert [s.issued for s in scores] == pytest.approx([0.15] * 3)
    assert store.state("H", "P").view["left_out"] == 1
    again = open_store(tmp_path / "b.db", partitions=2)
    rebuild(store, again, make_fold)
    assert again.fingerprint() == store.fingerprint()


def at_odds(seed: int) -> list[VisitChange | Known]:
    """What was told of a patient, in no sense: every step of every kind of stay occurs."""
    rng = random.Random(seed)
    time, out = T0, []
    for number in range(rng.randrange(3, 12)):
        time += 3600 * rng.choice([0.1, 0.3, 0.7, 1.3, 5, 5, 30, 75, 80]) + number
        name = rng.choice([None, "A", "A", "B", "B", "C"])
        if rng.random() < 0.5:
            taken = time - 3600 * rng.choice([0, 0.2, 1, 5, 30, 60])
            old = is_old(taken, time)
            out.append(Known(time, time if old else taken, name, old))
            continue
        kind = rng.choice(["admit", "admit", "register", "discharge", "discharge", "cancel_admit",
                           "cancel_discharge", "update", "transfer"])  # fmt: skip
        admitted = rng.choice([None, None, -600, -7200, -90 * 3600, 600])
        if kind not in ("admit", "register") or admitted is None:
            out.append(VisitChange("H", "P", name, kind, time))
        else:
            out.append(VisitChange("H", "P", name, kind, time, admitted=time + admitted))
    return out


def event(what: VisitChange | Known, number: int) -> tuple[str, float, dict]:
    """(kind, time, body) as the log holds it."""
    if isinstance(what, VisitChange):
        body = {"visit": what.visit, "kind": what.kind, "admitted": what.admitted}
        return VISIT, what.time, body
    taken = what.known - 60 * 3600 if what.old else what.taken
    items = [[f"{number:016x}", "HR", 80.0, taken, what.known, 1]]
    return MEASURED, what.known, {"visit": what.visit, "items": items}


def folded(
    told: list[VisitChange | Known], history: list[VisitChange | Known] = (), merge: float = 0
) -> list[tuple]:
    """(name, begin, results, end) of the stays that the fold makes of it.

    A merge brings the history of another identifier behind what was told by then.
    """
    fold, state = make_fold(), PatientState("H", "P", 0)
    stays: dict[float, tuple] = {}
    began = 0
    first = fold._begin

    def begin(state, *how):
        nonlocal began
        if began:
            # A merge may bring something of the stay before, and begin one.
            stays[began] = (state.visit, state.begin, state.heard, state.ended)
        began += 1
        first(state, *how)

    fold._begin = begin
    events = [event(what, number) for number, what in enumerate(told)]
    if history:
        past = [event(what, 1000 + number) for number, what in enumerate(history)]
        brought = {"history": [[kind, time, body] for kind, time, body in past]}
        place = sum(time <= merge for _, time, _ in events)
        events.insert(place, (MERGED, merge, brought))
    for number, (kind, time, body) in enumerate(events):
        fold.pass_time(state, time)
        fold.apply(state, Event(number, 0, "H", "P", kind, time, body, time))
        stays[began] = (state.visit, state.begin, state.heard, state.ended)
    return [stays[i] for i in range(1, began + 1)]


def test_table_and_service_agree_on_what_makes_no_sense():
    several = 0
    for seed in range(300):
        told = at_odds(seed)
        live = folded(told)
        changes = [c for c in told if isinstance(c, VisitChange)]
        table = visits_of(changes, [r for r in told if isinstance(r, Known)]).stays
        assert [(s.visit, s.begin, len(s.results)) for s in table] == [s[:3] for s in live], seed
        for stay, (*_, ended) in zip(table[:-1], live[:-1], strict=True):
            # The service only learns of the end of a stay by the next one, too.
            assert stay.ended is not None and ended in (None, stay.ended), seed
        if table and live[-1][3] is not None:
            assert live[-1][3] in (table[-1].ended, table[-1].left(IDLE)), seed
        several += len(table) > 1
    assert several > 75


def test_table_and_service_agree_on_what_a_merge_brings():
    several = 0
    for seed in range(300):
        told, past = at_odds(seed), at_odds(1000 + seed)
        rng = random.Random(seed)
        merge = T0 + 3600 * rng.uniform(0, 120)
        history = [w for w in past if event(w, 0)[1] <= merge]
        # What comes after the merge is of who stays at once.
        # Of one moment visits count before results.
        own = sorted(
            told + past[len(history) :], key=lambda w: (event(w, 0)[1], isinstance(w, Known))
        )
        live = folded(own, history, merge)
        path = (merge, 2.0, 0.0)
        changes = [(w, ()) for w in own if isinstance(w, VisitChange)]
        changes += [(w, path) for w in history if isinstance(w, VisitChange)]
        results = [w for w in own if isinstance(w, Known)]
        results += [w._replace(path=path) for w in history if isinstance(w, Known)]
        table = visits_of([w for w, _ in changes], results, [p for _, p in changes]).stays
        assert [(s.visit, s.begin, len(s.results)) for s in table] == [s[:3] for s in live], seed
        several += len(table) > 1
    assert several > 75


def test_who_was_silent_and_then_discharged_does_not_come_back_by_a_late_result(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=2)
    late = T0 + 103 * 3600
    one(store, adt("A01", T0, "1", visit="V", admitted=T0),
        hr(180.0, T0 + 60, "2", order="o", visit="V"), tick=T0 + 100 * 3600)  # fmt: skip
    idle = store.state("H", "P").view
    assert idle["end"] == "idle"
    one(store, adt("A03", T0 + 101 * 3600, "3", visit="V"),
        hr(190.0, T0 + 102 * 3600, "4", order="p", visit="V", sent=late),
        tick=late + 7200)  # fmt: skip
    view = store.state("H", "P").view
    assert (view["end"], view["left_out"]) == ("discharged", 1)
    assert view["hour"] == idle["hour"]
    one(store, adt("A13", late + 7300, "5", visit="V"),
        hr(190.0, late + 7400, "6", order="q", visit="V"))  # fmt: skip
    assert store.state("H", "P").view["end"] is None


def test_a_correction_does_not_keep_a_stay_going(tmp_path):
    first = [
        adt("A01", T0, "1", visit="V", admitted=T0),
        hr(180.0, T0 + 60, "2", order="o", visit="V"),
    ]
    fixed = hr(80.0, T0 + 60, "3", order="o", visit="V", status="C", sent=T0 + 40 * 3600)
    ends = []
    for name, corrections in (("plain", []), ("corrected", [fixed])):
        store = open_store(tmp_path / f"{name}.db", partitions=2)
        one(store, *first, tick=T0 + 40 * 3600)
        one(store, *corrections, tick=T0 + 200 * 3600)
        view = store.state("H", "P").view
        ends.append((view["end"], view["hour"], view["updated"]))
    assert ends[0] == ends[1] and ends[0][0] == "idle"
    assert store.scores("H", "P")[0].risk == 0.0


def test_a_correction_keeps_no_stay_going_behind_a_mistyped_admission(tmp_path):
    first = [
        adt("A01", T0, "1", visit="V", admitted=T0 - 300 * 24 * 3600),
        hr(180.0, T0 + 60, "2", order="o", visit="V"),
    ]
    fixed = hr(80.0, T0 + 60, "3", order="o", visit="V", status="C", sent=T0 + 40 * 3600)
    ends = []
    for name, corrections in (("plain", []), ("corrected", [fixed])):
        store = open_store(tmp_path / f"{name}.db", partitions=2)
        # Nobody told the time until long after the correction.
        one(store, *first, *corrections, tick=T0 + 200 * 3600)
        view = store.state("H", "P").view
        ends.append((view["begin"], view["end"], view["hour"], view["updated"]))
    assert ends[0] == ends[1] and ends[0][:2] == (T0 + 60, "idle")
