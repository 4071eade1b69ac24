"""Treatment quiets alarms: codes, readers, the fold, and the policy over whole tables."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.data.clinical.feed import Normaliser
from foretell.data.clinical.fhir import FhirReader
from foretell.data.clinical.hl7 import Hl7Reader, Message
from foretell.data.clinical.hl7.writer import Result, drug_message, result_message, visit_message
from foretell.data.clinical.treatments import TreatmentCodes
from foretell.decisions.alarms import AlarmPolicy, Tier, run_policy
from foretell.errors import ParameterError
from foretell.serving.events import Delivery, events_of
from foretell.serving.store import open_store
from foretell.serving.worker import Fold, Ladder, RuleScorer, Worker
from foretell.serving.worker.quiet import QuietRules
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

T0 = 1_767_225_600.0
HOUR = 3600.0
VANCOMYCIN = ("RXNORM", "11124")
POLICY = AlarmPolicy(tiers=(Tier("urgent", 0.2),), snooze=2, quiet_after_treatment=8)
COUNTER = iter(range(10**9))


def make_fold(**options) -> Fold:
    return Fold(Ladder([RuleScorer("news2"), RuleScorer("sirs")]), POLICY, **options)


def taken(store, *messages: bytes) -> None:
    for data in messages:
        records = Hl7Reader().read(Message.from_bytes(data))
        told(store, records)


def told(store, records, normaliser: Normaliser | None = None) -> None:
    events, _ = events_of(records, normaliser or Normaliser())
    number = str(next(COUNTER))
    store.append([Delivery("t", number, number.encode().rjust(16), "x", 0.0, events, [])])


def fold(store, until: float | None = None, **options) -> None:
    if until is not None:
        send_ticks(store, until, everywhere=True)
    worker = Worker(store, make_fold(**options), name="w", ttl=3600)
    worker.keep_leases(now=True)
    while worker.work():
        pass


def sick(hour: int) -> bytes:
    """A result of an hour that is worth an alarm."""
    bad = [Result("8867-4", 135.0, "/min"), Result("9279-1", 30.0, "/min")]
    time = T0 + (hour - 0.5) * HOUR
    return result_message("H", "P", bad, time=time, control=f"s{hour}", visit="V")


def dose(hour: float, number: str, drug=VANCOMYCIN, **options) -> bytes:
    return drug_message("H", "P", drug, time=T0 + (hour - 0.4) * HOUR, control=f"d{number}",
                        order=number, visit="V", **options)  # fmt: skip


def admitted() -> bytes:
    return visit_message("H", "P", "A01", time=T0, control="a", visit="V", admitted=T0)


def raised(store) -> list[int]:
    standing: set[int] = set()
    for n in store.notes(0, 10_000):
        if n.kind == "alarm":
            standing.add(n.body["hour"])
        elif n.kind == "correction":
            change = standing.discard if n.body["change"] == "retracted" else standing.add
            change(n.body["hour"])
    return sorted(standing)


def same_again(store, folder, **options) -> None:
    again = open_store(folder / "again.db", partitions=store.partitions)
    rebuild(store, again, lambda: make_fold(**options), batch=3)
    assert again.fingerprint() == store.fingerprint()


@pytest.fixture
def store(tmp_path):
    held = open_store(tmp_path / "s.db", partitions=2)
    yield held
    held.close()


def test_a_dose_quiets_and_the_course_does_not_for_ever(store, tmp_path):
    taken(store, admitted(), *(sick(h) for h in range(1, 31)))
    taken(store, *(dose(4 + 6 * k, str(k)) for k in range(4)))
    fold(store, T0 + 30 * HOUR)
    # Eight hours from the fourth on, and no more although doses go on.
    assert raised(store) == [1, 12, 15, 18, 21, 24, 27, 30]
    view = store.state("H", "P").view
    assert view["quiet_reason"] is None
    notes = [n.body for n in store.notes(0, 1000) if n.kind == "action"]
    assert [(n["action"], n["hour"], n["hours"]) for n in notes] == [("treated", 4, 8)]
    same_again(store, tmp_path)
    each = open_store(tmp_path / "each.db", partitions=2)
    rebuild(store, each, lambda: make_fold(quiet=QuietRules(course=0, antibiotics=3)))
    assert raised(each) == [1, 7, 13, 19, 25, 28]


def test_the_table_gives_the_alarms_of_the_stream(store, tmp_path):
    rng = np.random.default_rng(3)
    hours = 40
    taken(store, admitted())
    bad = rng.random(hours) < 0.6
    for h in range(1, hours + 1):
        if bad[h - 1]:
            taken(store, sick(h))
        else:
            well = [Result("8867-4", 80.0, "/min"), Result("9279-1", 15.0, "/min")]
            taken(store, result_message("H", "P", well, time=T0 + (h - 0.5) * HOUR,
                                        control=f"w{h}", visit="V"))  # fmt: skip
    given = np.zeros(hours, np.int64)
    for h in (5, 22, 36):
        given[h - 1] = 6
        taken(store, dose(h, f"g{h}"))
    rules = QuietRules(antibiotics=6, course=0)
    fold(store, T0 + hours * HOUR, quiet=rules)
    scores = np.array([s.risk for s in store.scores("H", "P")])
    assert len(scores) == hours
    found = run_policy(POLICY, scores, [hours], treated=given)
    assert raised(store) == (np.flatnonzero(found.raised) + 1).tolist()
    plain = run_policy(POLICY, scores, [hours])
    assert plain.raised.sum() > found.raised.sum() > 0
    state = POLICY.start()
    one = []
    for h in range(1, hours + 1):
        if given[h - 1]:
            state = POLICY.treated(state, hours=6)
        state, alarm = POLICY.step(state, h, float(scores[h - 1]))
        one.append(alarm is not None)
    assert one == found.raised.tolist()


def test_corrections_of_doses_correct_the_silence(store, tmp_path):
    taken(store, admitted(), *(sick(h) for h in range(1, 13)), dose(3, "7"))
    fold(store, T0 + 12 * HOUR)
    assert raised(store) == [1, 11]
    # It was another patient's: the alarms that it silenced are raised, late but said.
    taken(store, dose(3, "7", action="D", sent=T0 + 12.2 * HOUR))
    fold(store)
    assert raised(store) == [1, 4, 7, 10]
    late = [n for n in store.notes(0, 1000) if n.kind == "alarm" and n.body["hour"] == 4]
    assert late[0].body["raised_in"] == 12
    # What is known late is quiet for the rest of its time, and takes back no alarm of old.
    taken(store, dose(8, "8", sent=T0 + 12.3 * HOUR), *(sick(h) for h in range(13, 19)))
    fold(store, T0 + 18 * HOUR)
    assert raised(store) == [1, 4, 7, 10, 16]
    same_again(store, tmp_path)


def test_a_diagnosis_and_an_order_count_where_the_site_says_so(store, tmp_path):
    known = {"resourceType": "Condition", "id": "c", "subject": {"reference": "Patient/P"},
             "code": {"coding": [{"system": "I10", "code": "A41.9"}]},
             "verificationStatus": {"coding": [{"code": "confirmed"}]},
             "recordedDate": "2026-01-01T01:30:00Z"}  # fmt: skip
    bundle = {"resourceType": "ServiceRequest", "id": "r", "status": "active",
              "subject": {"reference": "Patient/P"}, "authoredOn": "2026-01-01T08:30:00Z",
              "code": {"coding": [{"system": "LAB", "code": "SEPSIS-BUNDLE"}]}}  # fmt: skip
    site = Normaliser(treatments=TreatmentCodes({"LAB|SEPSIS-BUNDLE": "sepsis"}))
    taken(store, admitted(), *(sick(h) for h in range(1, 15)))
    told(store, FhirReader("H").read(known), site)
    told(store, FhirReader("H").read(bundle), site)
    rules = QuietRules(sepsis=3)
    fold(store, T0 + 14 * HOUR, quiet=rules)
    assert raised(store) == [1, 5, 8, 12]
    same_again(store, tmp_path, quiet=rules)


def test_a_dose_before_the_admission_belongs_to_it(store, tmp_path):
    taken(store, dose(0.5, "1"), admitted(), *(sick(h) for h in range(1, 12)))
    fold(store, T0 + 11 * HOUR)
    assert raised(store)[0] == 9
    other = open_store(tmp_path / "o.db", partitions=2)
    again = result_message("H", "P", [Result("8867-4", 135.0, "/min"),
                           Result("9279-1", 30.0, "/min")], time=T0 + 300 * HOUR, control="n",
                           visit="W")  # fmt: skip
    next_stay = visit_message("H", "P", "A01", time=T0 + 300 * HOUR, control="b", visit="W",
                              admitted=T0 + 300 * HOUR)  # fmt: skip
    taken(other, dose(0.5, "1"), admitted(), sick(1), next_stay, again)
    fold(other, T0 + 301 * HOUR)
    # The dose of one stay does not silence the next.
    assert [n.body["stay"] for n in other.notes(0, 100) if n.kind == "alarm"][-1] == "W"
    with pytest.raises(ParameterError, match="course"):
        QuietRules(course=-1)
