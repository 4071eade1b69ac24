"""HL7 v2: messages, times and what they say."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical.feed import (
    Measurement,
    OrderChange,
    Refusal,
    VisitChange,
    normalise,
    stays_from_feed,
)
from foretell.data.clinical.hl7 import (
    Hl7Error,
    Hl7Reader,
    Message,
    read_hl7,
    read_time,
    split_messages,
)
from foretell.data.clinical.hl7.times import write_time
from foretell.data.clinical.hl7.writer import messages_of
from foretell.errors import DataError

BERLIN = ZoneInfo("Europe/Berlin")
HEAD = "MSH|^~\\&|LAB|H|FT|FT|20260105120000||{kind}|1|P|2.5\r"
PID = "PID|1||P1^^^AUTH^MR~S9^^^SSA^SS||DOE^JANE||19500610|F\r"


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()


def results(*obx: str, obr: str = "OBR|1||F1|PANEL|||20260105110000|||||||||||||||20260105113000",
            head: str = HEAD) -> list:  # fmt: skip
    text = head.format(kind="ORU^R01") + PID + "PV1||I|ICU" + "|" * 16 + "V1\r" + obr + "\r"
    return Hl7Reader().read(Message(text + "\r".join(obx)), received=at(2026, 1, 5, 12))


def test_a_result_is_read_with_its_times_codes_and_status():
    (r,) = results("OBX|1|NM|2524-7^Lactate^LN^LAC^^L|1|3.1|mmol/L|||||F|||20260105104500")
    assert isinstance(r, Measurement)
    assert (r.site, r.patient, r.visit) == ("H", "P1@AUTH", "V1")
    assert r.codes == (("LN", "2524-7"), ("L", "LAC"))
    assert (r.value, r.unit, r.status) == (3.1, "mmol/L", "final")
    assert (r.time, r.issued) == (at(2026, 1, 5, 10, 45), at(2026, 1, 5, 11, 30))
    assert normalise(r) == ("Lactate", 3.1)
    (r,) = results("OBX|1|NM|2524-7^^LN||3.1|mmol/L|||||F")
    assert r.time == at(2026, 1, 5, 11)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("NM", "7.2", (7.2, None, None)),
        ("SN", ">^100", (100.0, ">", None)),
        ("SN", "<^0.1", (0.1, "<", None)),
        ("SN", "^5", (5.0, None, None)),
        ("SN", "^1^-^2", (None, None, "range")),
        ("SN", "^1^:^128", (None, None, "range")),
        ("ST", "<0.1", (0.1, "<", None)),
        ("ST", "HEMOLYZED", (None, None, "no_number")),
        ("CWE", "15^15 points^L", (15.0, None, None)),
        ("CE", "LA1^awake^LN", (None, None, "no_number")),
        ("NM", "1~2", (None, None, "repeated_value")),
        ("NM", '""', (None, None, "no_value")),
        ("ED", "x", (None, None, "value_type")),
    ],
)
def test_value_types_and_comparators(kind, value, told):
    (r,) = results(f"OBX|1|{kind}|2160-0^^LN||{value}|mg/dL|||||F")
    wanted, comparator, problem = told
    assert (r.value == wanted) or (wanted is None and math.isnan(r.value))
    assert (r.comparator, r.problem) == (comparator, problem)


@pytest.mark.parametrize(
    ("letter", "status"),
    [("P", "preliminary"), ("F", "final"), ("C", "corrected"), ("D", "deleted"), ("W", "deleted"),
     ("X", "deleted"), ("", "final")],
)  # fmt: skip
def test_status_letters(letter, status):
    (r,) = results(f"OBX|1|NM|2160-0^^LN||1|mg/dL|||||{letter}")
    assert r.status == status
    assert results("OBX|1|NM|2160-0^^LN||1|mg/dL|||||I") == []
    (bad,) = results("OBX|1|NM|2160-0^^LN||1|mg/dL|||||Q")
    assert bad.reason == "unknown_status"


def test_an_order_belongs_to_its_patient():
    obx = "OBX|1|NM|2160-0^^LN||1|mg/dL|||||F"
    mine, other, timed = results(obx, "PID|||P2", obx, obx + "|||20260105110500")
    assert mine.time == at(2026, 1, 5, 11) and mine.patient == "P1@AUTH"
    assert other == Refusal("no_time", "OBX-14", "2160-0", "LN")
    assert (timed.patient, timed.issued) == ("P2", at(2026, 1, 5, 12))


@pytest.mark.parametrize("value", ["HEMOLYZED", '""', "", "^1^-^2"])
def test_a_correction_without_a_number_takes_the_number_back(value):
    first, (then,) = (
        results(f"OBX|1|{kind}|2160-0^^LN||{told}|mg/dL|||||{letter}")
        for kind, told, letter in (("NM", "9.9", "F"), ("SN" if "^" in value else "ST", value, "C"))
    )
    assert math.isnan(normalise(then)[1])
    (none,) = results(f"OBX|1|ST|2160-0^^LN||{value}|mg/dL|||||F")
    assert isinstance(normalise(none), Refusal)
    other = results("OBX|1|NM|2524-7^^LN||1.5|mmol/L|||||F")
    stays = stays_from_feed([*first, then, *other])
    assert np.isnan(stays.column("Creatinine")).all()
    assert 1.5 in stays.column("Lactate").tolist()


def test_parts_of_no_use_are_refused_one_by_one():
    obx = "OBX|1|NM|{}||1|{}|||||F|||{}"
    good, code, unit, date, none = results(
        obx.format("2160-0^^LN", "mg/dL", "2026010510"),
        obx.format("999-9^^LN", "mg/dL", "2026010510"),
        obx.format("2160-0^^LN", "furlong", "2026010510"),
        obx.format("2160-0^^LN", "mg/dL", "20260105"),
        obx.format("", "mg/dL", "2026010510"),
    )
    assert normalise(good) == ("Creatinine", 1.0)
    assert normalise(code) == Refusal("unknown_code", "code", "999-9", "LN")
    assert normalise(unit) == Refusal("unknown_unit", "unit", "2160-0", "LN", "furlong")
    assert (date.reason, none.reason) == ("imprecise_time", "no_code")
    assert normalise(results(obx.format("2160-0^^LN", "umol/L", "2026010510"))[0])[1] < 0.1


def test_times_through_changes_of_the_clock():
    assert read_time("20260105120000+0100", UTC) == at(2026, 1, 5, 11)
    assert read_time("202607051200", BERLIN) == at(2026, 7, 5, 10)
    assert read_time("20260105", BERLIN) is None
    assert read_time("20260105", BERLIN, precise=False) == at(2026, 1, 4, 23)
    # 2026-10-25 02:30 is there twice; 2026-03-29 02:30 not at all.
    first, second = at(2026, 10, 25, 0, 30), at(2026, 10, 25, 1, 30)
    assert read_time("202610250230", BERLIN) == first
    assert read_time("202610250230", BERLIN, near=first + 300) == first
    assert read_time("202610250230", BERLIN, near=second + 300) == second
    assert read_time("202603290230", BERLIN) == at(2026, 3, 29, 1, 30)
    assert read_time("20260105120060", UTC) == at(2026, 1, 5, 12, 1)
    assert read_time("202601052400", UTC) == at(2026, 1, 6)
    for text in ("", "2026", "20261301", "2026010525", "20260105120000+01", "x", "٢٠٢٦010512"):
        assert read_time(text, UTC) is None


@given(st.integers(0, 4_000_000_000_000))
def test_times_survive_writing(milliseconds):
    assert read_time(write_time(milliseconds / 1000), BERLIN) == pytest.approx(
        milliseconds / 1000, abs=0.0011
    )


def test_a_later_unit_is_no_news_of_earlier_hours():
    stay = ("W", "p1", "v1")
    told = [
        VisitChange(*stay, "admit", 0.0, admitted=0.0, unit="MICU", age=60.0, sex="female"),
        Measurement("W", "p1", "v1", (("LN", "8867-4"),), 80.0, "/min", 3600.0, 3600.0, "final",
                    "g1"),
        VisitChange(*stay, "transfer", 7200.0, unit="SICU", age=61.0),
        VisitChange(*stay, "discharge", 10800.0),
    ]  # fmt: skip
    stays = stays_from_feed(told)
    assert stays.names("unit").tolist() == ["MICU"]
    assert stays.number("age").tolist() == [61.0]


def test_visits():
    text = (
        HEAD.format(kind="ADT^A01") + "EVN|A01|20260105115900\r" + PID + "PV1||I|ICU^2^1"
        + "|" * 16 + "V7" + "|" * 25 + "20260105110000"
    )  # fmt: skip
    (v,) = Hl7Reader().read(Message(text))
    assert isinstance(v, VisitChange)
    assert (v.kind, v.visit, v.unit, v.age, v.sex) == ("admit", "V7", "ICU", 75.0, "female")
    assert (v.time, v.admitted) == (at(2026, 1, 5, 11, 59), at(2026, 1, 5, 11))
    merge = HEAD.format(kind="ADT^A40") + "EVN||20260105115900\r" + PID + "MRG|OLD^^^AUTH\r"
    (v,) = Hl7Reader(authorities=("AUTH",)).read(Message(merge))
    assert (v.kind, v.patient, v.prior) == ("merge", "P1", "OLD")
    old = merge.replace("19500610", "18500610").replace("A40", "A08")
    (v,) = Hl7Reader().read(Message(old))
    assert v.age is None and v.doubt == "impossible_age"


def test_a_merge_of_several_patients_is_that_of_each():
    text = HEAD.format(kind="ADT^A40") + "EVN|A40|20260105110000\r"
    for patient, prior in (("1", "2"), ("3", "4"), ("3", "5")):
        text += f"PID|||{patient}^^^^MR||||19500610|F\rMRG|{prior}^^^^MR\r"
    found = Hl7Reader().read(Message(text))
    assert [(v.kind, v.patient, v.prior) for v in found] == [
        ("merge", "1", "2"), ("merge", "3", "4"), ("merge", "3", "5")
    ]  # fmt: skip
    assert {(v.age, v.sex, v.time) for v in found} == {(75.0, "female", at(2026, 1, 5, 11))}
    with pytest.raises(Hl7Error, match="identifier"):
        Hl7Reader().read(Message(text + "PID|||6^^^^MR\rMRG|\r"))
    # Whom a patient is merged into is not guessed.
    head, one, other = HEAD.format(kind="ADT^A40"), "PID|||1\r", "PID|||6\r"
    for wrong in (one + other + "MRG|2\r", one + "MRG|2\r" + other, "MRG|2\r" + one):
        with pytest.raises(Hl7Error, match="each PID") as refused:
            Hl7Reader().read(Message(head + wrong))
        assert refused.value.where == "MRG"


def test_the_preferred_identifier_counts():
    pid = "PID|||A^^^X^PI~B^^^Y^MR~C^^^Z\r"
    fields = Message(HEAD.format(kind="ADT^A08") + pid)

    def read(*authorities):
        return Hl7Reader(authorities=authorities).patient(fields, fields.get("PID"), 3)

    assert (read(), read("Z", "Y"), read("Y"), read("Q")) == ("B@Y", "C", "B", "B@Y")


def test_orders():
    text = (
        HEAD.format(kind="ORM^O01") + PID + "ORC|NW|N1|||||||20260105100000\r"
        "OBR|1|N1||2524-7^Lactate^LN\rORC|CA|N2|||||||20260105100000\rOBR|2|N2||x\r"
        "ORC|ZZ|N3\rOBR|3|N3||x\r"
    )  # fmt: skip
    a, b, c = Hl7Reader().read(Message(text))
    assert isinstance(a, OrderChange)
    assert (a.number, a.status, a.codes) == ("N1", "pending", (("LN", "2524-7"),))
    assert (b.status, c.reason) == ("cancelled", "unusable_order")


def test_character_sets_and_escapes():
    text = HEAD.format(kind="ADT^A08").replace("|2.5\r", "|2.5||||||{}\r") + PID
    name = text.replace("P1^", "MÜ^")
    for told, codec in (("8859/1", "latin-1"), ("UNICODE UTF-8", "utf-8"), ("", "utf-8")):
        message = Message.from_bytes(name.format(told).encode(codec))
        assert message.part(message.get("PID"), 3) == "MÜ"
    wide = Message.from_bytes(name.format("UNICODE UTF-16").encode("utf-16"))
    assert wide.part(wide.get("PID"), 3) == "MÜ"
    with pytest.raises(Hl7Error, match="character set"):
        Message.from_bytes(name.format("KLINGON").encode())
    with pytest.raises(Hl7Error, match="does not fit"):
        Message.from_bytes(name.format("").encode("latin-1"))
    odd = Message("MSH|^~\\&|A\\F\\B\\T\\C\\X4D\\\\.br\\\\E\\|H\r")
    assert odd.part(odd.get("MSH"), 3) == "A|B&CM\\"
    other = Message("MSH#!*?~#LAB#H#\rPID#####A!B\n")
    assert other.part(other.get("PID"), 5, 2) == "B"


@pytest.mark.parametrize(
    "text",
    ["", "PID|1", "MSH", "MSH|^^^^|x", "MSH|^~\\&|a\rnonsense line", "MSHA^~\\&|x",
     "MSH|^~\\&|a\rMSH|^~\\&|b"],
)  # fmt: skip
def test_what_is_no_message_is_refused(text):
    with pytest.raises(Hl7Error):
        Message(text)


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(
    lambda b: (HEAD.format(kind="ORU^R01") + PID + "OBR|1\rOBX|1|NM|").encode() + b)))  # fmt: skip
def test_no_bytes_raise_anything_else(data):
    try:
        Hl7Reader().read(Message.from_bytes(data), received=0.0)
    except Hl7Error as error:
        assert str(error)


@pytest.mark.parametrize(
    "start",
    [
        "MSH|^~\\\r|A|H|", "MSH|^\r~\\&|A", "MSH|\r^~\\&|A", "MSH§^~\\&§A", "MSH|^ \\&|A|H|",
        "MSH.^~\\&.A.H.", "MSH|^~\\-|A|H|",
    ],
)  # fmt: skip
def test_delimiters_that_are_cut_off_or_clash_with_values_are_refused(start):
    for charset in ("utf-8", "utf-16"):
        with pytest.raises(Hl7Error):
            Message.from_bytes((start + "B|B|20260101||ORU^R01|1|P|2.5\r").encode(charset))


def test_a_file_gives_the_stays_it_was_written_from(tmp_path):
    from foretell.data.clinical import Schema, Stays

    schema = Schema.default().channels(["HR", "Temp", "Lactate"])
    rng = np.random.default_rng(0)
    rows = rng.uniform([60, 36, 1], [120, 40, 5], (9, 3)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    rows[[3, 8], 0] = 80
    one = np.array(["a", "b"], object)
    stays = Stays(one, one, np.array([0, 4]), np.array([4, 5]), np.array([1, 1]),
                  {n: rows[:, i] for i, n in enumerate(schema.names)}, schema,
                  numbers={"age": np.array([50.0, 70.0])})  # fmt: skip
    contents = [m for _, m in messages_of(stays)]
    file = tmp_path / "feed.hl7"
    file.write_bytes(b"".join(b"\x0b" + m + b"\x1c\r" for m in contents) + b"MSH|broken")
    assert len(list(split_messages(file.read_bytes()))) == len(contents) + 1
    read = read_hl7(file, schema=schema)
    assert read.lengths.tolist() == [4, 5] and read.number("age").tolist() == [50.0, 70.0]
    np.testing.assert_allclose(read.matrix(), rows, rtol=1e-6)
    with pytest.raises(DataError, match="no stay"):
        (tmp_path / "e").write_bytes(b"")
        read_hl7(tmp_path / "e")
