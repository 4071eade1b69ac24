from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import (
    Schema,
    bin_observations,
    concatenate,
    read_psv,
    stays_from_frame,
)
from foretell.errors import DataError

HEADER = "HR|O2Sat|Temp|WBC|Age|Gender|Unit1|Unit2|HospAdmTime|ICULOS|SepsisLabel"


def write(folder, name, rows, header=HEADER, separator="|", encoding="utf-8", end="\n"):
    lines = [header, *rows]
    text = end.join(line.replace("|", separator) for line in lines) + end
    (folder / name).write_bytes(text.encode(encoding))


def kinds(stays):
    return {note.kind: note.count for note in stays.notes}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "p000001.psv", [
        "80|NaN|37.0|NaN|60.5|1|1|0|-5.5|3|0",
        "NaN|96|NaN|11.5|60.5|1|1|0|-5.5|4|0",
        "90|97|38.3|NaN|60.5|1|1|0|-5.5|5|1",
    ])  # fmt: skip
    write(tmp_path, "p000002.psv", ["NaN|NaN|NaN|NaN|33|0|NaN|NaN|NaN|1|0"])
    return tmp_path


def test_a_folder_of_files_becomes_stays(folder):
    stays = read_psv(folder, hospital="A")
    assert stays.ids.tolist() == ["A/1", "A/2"] and stays.lengths.tolist() == [3, 1]
    assert stays.starts.tolist() == [3, 1] and stays.hours().tolist() == [3, 4, 5, 1]
    np.testing.assert_array_equal(stays.column("HR"), np.float32([80, np.nan, 90, np.nan]))
    assert stays.onset[0] == 5 + 6 and np.isnan(stays.onset[1])
    assert stays.labels().tolist() == [0, 0, 1, 0]
    assert stays.names("sex").tolist() == ["male", "female"]
    assert stays.names("unit").tolist() == ["MICU", "unknown"]
    assert stays.names("site").tolist() == ["A-MICU", "A-unknown"]
    assert stays.number("age").tolist() == [60.5, 33] and stays.number("admission")[0] == 5.5
    assert np.isnan(stays.number("admission")[1])
    assert kinds(stays)["no_measurement"] == 1
    assert kinds(stays)["never_measured"] == 30


def test_other_texts_give_the_same_stays(folder, tmp_path_factory):
    expected = read_psv(folder).fingerprint()
    other = tmp_path_factory.mktemp("other")
    for file in sorted(folder.iterdir()):
        rows = file.read_text().splitlines()[1:]
        odd = {"p000001.psv": ("\ufeff" + HEADER, ";", "\r\n"), "p000002.psv": (HEADER, ",", "\n")}
        header, separator, end = odd[file.name]
        write(other, file.name, rows, header, separator, end=end)
    (other / "p000003.psv").write_text("")
    write(other, "p000004.psv", [])
    stays = read_psv(other)
    assert stays.fingerprint() == expected
    assert kinds(stays)["empty_file"] == 2 and kinds(stays)["separator"] == 2


def test_words_bounds_and_units_are_read_and_counted(tmp_path):
    write(tmp_path, "p1.psv", [
        "HEMOLYZED|>95|98.6 F|12|60|1|1|0|0|1|0",
        "80 bpm|<0.1|37,5|7 furlong|60|1|1|0|0|2|0",
        "|N/A|37|-|60|1|1|0|0|3|0",
    ])  # fmt: skip
    stays = read_psv(tmp_path)
    np.testing.assert_allclose(stays.column("HR"), [np.nan, 80, np.nan])
    np.testing.assert_allclose(stays.column("O2Sat"), [95, 0.1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(stays.column("Temp"), [37, 37.5, 37], rtol=1e-6)
    np.testing.assert_allclose(stays.column("WBC"), [12, np.nan, np.nan])
    found = kinds(stays)
    assert found["text"] == 1 and found["comparator"] == 2 and found["unknown_unit"] == 1
    assert found["impossible"] == 1, "0.1 % saturation is kept and counted"


def test_disorder_within_a_stay_is_repaired_and_counted():
    frame = pl.DataFrame({
        "id": ["x", "x", "y", "x", "x", "y"],
        "hour": [4, 2, 1, 2, 2, 2],
        "HR": [100.0, 60.0, 70.0, 80.0, np.nan, np.inf],
        "shoe_size": [1, 2, 3, 4, 5, 6],
        "age": [51, 50, 61, 50, 50, 61],
        "label": [1, 0, 0, 0, 0, 0],
    })  # fmt: skip
    stays = stays_from_frame(frame, label_column="label")
    assert stays.ids.tolist() == ["x", "y"] and stays.lengths.tolist() == [3, 2]
    np.testing.assert_array_equal(stays.column("HR"), np.float32([70, np.nan, 100, 70, np.nan]))
    assert stays.labels().tolist() == [0, 0, 1, 0, 0] and stays.onset[0] == 4 + 6
    found = kinds(stays)
    assert found["out_of_order"] == 1 and found["duplicate_hour"] == 2 and found["gap"] == 1
    assert found["split_stay"] == 2 and found["unknown_column"] == 1
    assert found["not_finite"] == 1 and found["contradiction"] == 1


def test_order_and_duplicates_do_not_change_what_is_read():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({
        "id": np.repeat(["a", "b", "c"], 20),
        "hour": np.tile(np.arange(1, 21), 3),
        "HR": rng.uniform(50, 120, 60),
        "WBC": np.where(rng.random(60) < 0.5, np.nan, rng.uniform(2, 20, 60)),
    })  # fmt: skip
    expected = stays_from_frame(frame).to_polars()
    for seed in range(5):
        shuffled = pl.concat([frame, frame.sample(10, seed=seed)]).sample(
            fraction=1, shuffle=True, seed=seed
        )
        assert stays_from_frame(shuffled).to_polars().sort("id", "hour").equals(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hour": [1, None]}, "hour is missing or not whole: None"),
        ({"hour": [1.0, 1.5]}, "not whole: 1.5.*row 1.*bin_observations"),
        ({"hour": [1, 90000]}, "spans 90,000 hours"),
        ({"id": ["x", None]}, "a row has no id.*row 1"),
        ({"label": [1, 0]}, "falls back from 1 to 0.*'x'"),
        ({"label": [0, 2]}, "label is 2.*row 1"),
        ({"pulse": [1.0, 2.0]}, "'HR' and 'pulse' are both HR"),
    ],
)
def test_what_cannot_be_repaired_is_refused_with_its_place(change, message):
    frame = pl.DataFrame({"id": ["x", "x"], "hour": [1, 2], "HR": [1.0, 2.0], "label": [0, 0]})
    frame = frame.with_columns(pl.Series(k, v) for k, v in change.items())
    with pytest.raises(DataError, match=message):
        stays_from_frame(frame, label_column="label")


def test_tables_that_are_no_stays_are_refused():
    with pytest.raises(DataError, match="'hour'"):
        stays_from_frame(pl.DataFrame({"id": ["x"]}))
    with pytest.raises(DataError, match="no column is a variable"):
        stays_from_frame(pl.DataFrame({"id": ["x"], "hour": [1], "hat": [1]}))
    with pytest.raises(DataError, match="no row"):
        stays_from_frame(pl.DataFrame({"id": [], "hour": [], "HR": []}))


def test_a_ragged_or_unreadable_file_is_named(folder):
    (folder / "p000009.psv").write_text(HEADER + "\n1|2\n")
    with pytest.raises(DataError, match=r"p000009.*one cell a column"):
        read_psv(folder)
    (folder / "p000009.psv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"p000009"):
        read_psv(folder)
    with pytest.raises(DataError, match="no file"):
        read_psv(folder, pattern="*.csv")


def test_a_stay_in_two_files_is_joined_and_hospitals_are_told_apart(folder, tmp_path_factory):
    more = tmp_path_factory.mktemp("more")
    write(more, "p000001.psv", ["70|NaN|37.0|NaN|60.5|1|1|0|-5.5|6|1"])
    both = read_psv([folder / "p000001.psv", folder / "p000002.psv", more / "p000001.psv"])
    assert both.lengths.tolist() == [4, 1] and kinds(both)["split_stay"] == 1
    assert kinds(both)["split_file"] == 1
    # Files one after the other are joined as silently as rows of one file: they are counted, too.
    both = read_psv([folder / "p000001.psv", more / "p000001.psv"])
    assert both.lengths.tolist() == [4] and kinds(both)["split_file"] == 1
    assert "split_file" not in kinds(read_psv(folder))
    a, b = read_psv(folder, hospital="A"), read_psv(folder, hospital="B")
    joined = concatenate([a, b])
    assert joined.ids.tolist() == ["A/1", "A/2", "B/1", "B/2"]
    assert joined.names("hospital").tolist() == ["A", "A", "B", "B"]
    with pytest.raises(DataError, match="'A/1'"):
        concatenate([a, a])


def test_stays_of_unknown_patients_are_of_different_ones():
    table = pl.DataFrame(
        {"id": ["1", "2", "3"], "hour": [1, 1, 1], "HR": [80.0, 81.0, 82.0],
         "patient": ["p", None, None]}
    )  # fmt: skip
    read = stays_from_frame(table, hospital="A")
    assert read.patients.tolist() == ["A/p", "A/2", "A/3"]
    long = pl.DataFrame({"id": ["1", "2"], "channel": "HR", "value": 80.0, "time": 0.5})
    binned = bin_observations(long, table.select("id", "patient"))
    assert binned.patients.tolist() == ["p", "2", "3"]


def test_aliases_find_columns_of_other_exports():
    schema = Schema.default().channels("yaib")
    frame = pl.DataFrame({"stay_id": [7, 7], "time": [1, 2], "o2sat": [96, 95], "crea": [1, 2]})
    stays = stays_from_frame(frame, id_column="stay_id", hour_column="time", schema=schema)
    assert stays.ids.tolist() == ["7"] and stays.column("Creatinine").tolist() == [1, 2]
    assert stays.column("O2Sat").tolist() == [96, 95]


@pytest.mark.real_data
def test_the_challenge_is_read_whole(challenge):
    by_hospital = challenge.by("hospital")
    counts = {
        h: (len(s), s.n_rows, int(np.isfinite(s.onset).sum()), int(s.labels().sum()))
        for h, s in by_hospital.items()
    }
    assert counts == {
        "A": (20_336, 790_215, 1_790, 17_136),
        "B": (20_000, 761_995, 1_142, 10_780),
    }
    measured = {h: sum(int((~np.isnan(s.column(n))).sum()) for n in s.channels)
                for h, s in by_hospital.items()}  # fmt: skip
    assert measured == {"A": 5_536_849, "B": 4_950_064}
    found = [n for n in challenge.notes if n.kind == "impossible" and "FiO2" in n.message]
    assert sum(n.count for n in found) > 300, "garbage is counted and kept"


@pytest.mark.real_data
def test_texts_and_tables_of_the_challenge_are_read_alike(challenge, tmp_path, data_root):
    source = data_root / "physionet2019_sepsis" / "training_setB.parquet"
    frame = pl.read_parquet(source, n_rows=3000)
    frame = frame.filter(pl.col("patient_id") != frame["patient_id"][-1])
    for (stay,), rows in frame.group_by("patient_id", maintain_order=True):
        rows.drop("patient_id").write_csv(
            tmp_path / f"p{stay:06d}.psv", separator="|", null_value="NaN"
        )
    read = read_psv(tmp_path, hospital="B")
    expected = challenge.select(np.isin(challenge.ids, read.ids))
    assert len(read) > 60
    for name in read.channels:
        np.testing.assert_array_equal(read.column(name), expected.column(name))
    np.testing.assert_array_equal(read.onset, expected.onset)
    for category in ("site", "sex", "unit"):
        assert read.names(category).tolist() == expected.names(category).tolist()


def test_one_hour_without_a_label_does_not_take_the_onsets_of_all():
    table = pl.DataFrame({
        "id": ["a"] * 4 + ["b"] * 2 + ["c"],
        "hour": [1, 2, 3, 4, 1, 2, 1],
        "HR": 80.0,
        "label": [0, None, 1, None, None, 0, None],
    })  # fmt: skip
    stays = stays_from_frame(table, label_column="label")
    np.testing.assert_array_equal(stays.onset, [3 + 6, np.nan, np.nan])
    assert stays.labels().tolist() == [0, -1, 1, -1, -1, 0, -1]
    assert kinds(stays)["no_label"] == 3 and kinds(stays)["unlabelled_stay"] == 1
    odd = table.with_columns(pl.col("label").cast(pl.Float64).fill_null(np.nan))
    assert stays_from_frame(odd, label_column="label").fingerprint() == stays.fingerprint()
    with pytest.raises(DataError, match=r"a label is 'x'.*row 1"):
        words = ["0", "x", "1", "0", "NaN", "0", None]
        stays_from_frame(table.with_columns(label=pl.Series(words)), label_column="label")
    with pytest.raises(DataError, match=r"falls back.*'a'"):
        stays_from_frame(
            table.with_columns(pl.Series("label", [1, None, 0, 0, 0, 0, 0])), label_column="label"
        )


def test_onsets_that_are_told_may_be_missing_in_some_rows_and_contradictions_are_counted():
    table = pl.DataFrame(
        {"id": ["a", "a", "b", "b"], "hour": [1, 2, 1, 2], "HR": 80.0,
         "onset": [None, "5", "7", "9"]}
    )  # fmt: skip
    stays = stays_from_frame(table, onset_column="onset")
    assert stays.onset.tolist() == [5, 7] and kinds(stays)["contradiction"] == 1


def test_numbers_of_stays_are_read_as_those_of_channels_are(tmp_path):
    table = pl.DataFrame(
        {"id": ["a", "b", "c", "d"], "hour": 1, "HR": 80.0, "age": ["> 89", "old", "61", "nan"]}
    )
    stays = stays_from_frame(table)
    np.testing.assert_array_equal(stays.number("age"), [89, np.nan, 61, np.nan])
    assert kinds(stays)["comparator"] == 1 and kinds(stays)["text"] == 1
    write(tmp_path, "p1.psv", ["80|97|37|9|old|1|1|0|soon|1|0", "81|97|37|9|inf|1|1|0|-2|2|0"])
    read = read_psv(tmp_path)
    assert np.isnan(read.number("age")).all() and read.number("admission").tolist() == [2]
    assert [n.kind for n in read.notes].count("text") == 2 and kinds(read)["not_finite"] == 1
    with pytest.raises(DataError, match="age must hold numbers"):
        stays_from_frame(table.with_columns(pl.Series("age", [[1], [2], [3], [4]])))
    with pytest.raises(DataError, match="HR must hold numbers"):
        stays_from_frame(table.with_columns(pl.Series("HR", [[1], [2], [3], [4]])))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        # A cell too many in one row and one too few in another add up to what is right.
        (["80|97|37|9|60|1|1|0|-2|1|0|5", "80|97|37|9|60|1|1|0|-2|2"], HEADER, "row 0.*one cell"),
        (["80|97|37|9|60|1|1|0|-2|1", "80|97|37|9|60|1|1|0|-2|2|0|5"], HEADER, "row 0.*one cell"),
        (["80|97|37|9|60|1|1|0|-2|1|0"], HEADER.replace("WBC", "HR"), "there twice.*'HR'"),
    ],
)
def test_rows_are_held_to_the_header_one_by_one(tmp_path, rows, header, message):
    write(tmp_path, "p7.psv", rows, header=header)
    with pytest.raises(DataError, match=message) as told:
        read_psv(tmp_path)
    assert told.value.file == str(tmp_path / "p7.psv")


def test_quotation_marks_say_nothing_closed_or_not(tmp_path):
    write(tmp_path, "p7.psv", ['"80|97|37|9|60|1|1|0|-2|1|0', '"81"|97|37|9"|60|1|1|0|-2|2|0'])
    assert read_psv(tmp_path).column("HR").tolist() == [80, 81]


def test_stays_of_two_hospitals_with_one_id_do_not_become_one_patient():
    table = pl.DataFrame(
        {"id": ["1", "1", "1", "2"], "hour": [1, 2, 1, 1], "HR": [80.0, 81.0, 120.0, 70.0],
         "hospital": ["A", None, "B", "B"]}
    )  # fmt: skip
    with pytest.raises(DataError, match=r"1 ids are of stays of two hospitals.*'1'.*'A/1'"):
        stays_from_frame(table)
    named = table.with_columns(id=pl.col("hospital").fill_null("A") + "/" + pl.col("id"))
    assert stays_from_frame(named).ids.tolist() == ["A/1", "B/1", "B/2"]
    # Hours that name none, as text or as a number, are of the stay's own.
    for gaps in (["7", "", "7", "8"], [7.0, float("nan"), 7.0, 8.0]):
        gappy = table.with_columns(hospital=pl.Series(gaps), hour=pl.Series([1, 2, 3, 1]))
        assert stays_from_frame(gappy).ids.tolist() == ["1", "2"]
