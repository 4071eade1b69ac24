from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data.clinical import (
    CausalFeatureBuilder,
    FeatureSpec,
    Observation,
    PiecewiseLinearEncoder,
    Schema,
    Stays,
    bin_observations,
    carry_forward,
    target,
)
from foretell.data.panel import Categorical
from foretell.errors import DataError, NotFittedError, ParameterError

from .conftest import make_stays

SPECS = ("p19-v1", "p19-windows-v1", "time-blind-v1")


def stream_of(builder, stays, i, scaled=True):
    stay = stays.select([i])
    known = {c: stay.names(c)[0] for c in ("sex", "unit")}
    return builder.stream(
        age=stay.number("age")[0],
        admission=stay.number("admission")[0],
        start=int(stay.starts[0]),
        scaled=scaled,
        **{k: None if v == "unknown" else v for k, v in known.items()},
    )


def by_hand(stay, names):
    """Features of one stay's hours, computed again from its past at every hour."""
    matrix, rows = stay.matrix().astype(np.float64), []
    for t in range(len(matrix)):
        row = {}
        for c, variable in enumerate(stay.schema.variables):
            past = matrix[: t + 1, c].copy()
            past[~variable.is_possible(past.astype(np.float32))] = np.nan
            at = np.flatnonzero(~np.isnan(past))
            seen, name = past[at], variable.name
            row[f"{name}:last"] = seen[-1] if len(at) else np.nan
            row[f"{name}:change"] = seen[-1] - seen[-2] if len(at) > 1 else np.nan
            row[f"{name}:since"] = t - at[-1] if len(at) else np.nan
            row[f"{name}:never"] = float(len(at) == 0)
            for block, hours, of in (
                ("mean", 72, np.mean), ("min", 6, np.min), ("max", 6, np.max)
            ):  # fmt: skip
                window = past[max(0, t + 1 - hours) :]
                window = window[~np.isnan(window)]
                row[f"{name}:{block}"] = of(window) if len(window) else row[f"{name}:last"]
            row[f"{name}:count"] = (~np.isnan(past[max(0, t - 7) :])).sum()
        row["shock_index"] = row["HR:last"] / row["SBP:last"]
        row["bun_creatinine"] = row["BUN:last"] / row["Creatinine:last"]
        age = stay.number("age")[0]
        row["age"] = 90 if age > 89 else age
        row["sex"] = {"male": 1, "female": 0}.get(stay.names("sex")[0], np.nan)
        for unit in ("MICU", "SICU", "unknown"):
            row[f"unit_{unit}"] = float(stay.names("unit")[0] == unit)
        row["admission"] = stay.number("admission")[0]
        row["hour"] = stay.starts[0] + t
        rows.append([row[n] for n in names])
    return np.array(rows)


def test_features_are_what_the_definitions_say():
    stays = make_stays(1, 8)
    builder = CausalFeatureBuilder("p19-windows-v1")
    found, at = builder.raw(stays), stays.offsets
    for i in range(len(stays)):
        expected = by_hand(stays.select([i]), builder.names)
        np.testing.assert_allclose(found[at[i] : at[i + 1]], expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_a_stream_equals_the_table_bit_for_bit(spec, seed):
    stays = make_stays(seed, 5)
    builder = CausalFeatureBuilder(spec).fit(stays)
    for scaled, expected in ((True, builder.transform(stays)), (False, builder.raw(stays))):
        for i in range(len(stays)):
            live = stream_of(builder, stays, i, scaled)
            rows = np.stack([live.step(row) for row in stays.select([i]).matrix()])
            np.testing.assert_array_equal(rows, expected[stays.offsets[i] : stays.offsets[i + 1]])


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.data())
def test_later_rows_never_change_earlier_features(seed, data):
    stays = make_stays(seed, 6)
    builder = CausalFeatureBuilder("p19-windows-v1").fit(stays)
    whole = builder.transform(stays)
    cuts = np.array([data.draw(st.integers(0, int(n))) for n in stays.lengths])
    early = stays.first(cuts)
    kept = np.concatenate(
        [np.arange(a, a + n) for a, n in zip(stays.offsets, cuts, strict=False)] or [[]]
    )
    np.testing.assert_array_equal(builder.transform(early), whole[kept.astype(int)])
    # And another future does not either.
    other = {k: v.copy() for k, v in stays.channels.items()}
    future = np.setdiff1d(np.arange(stays.n_rows), kept)
    for values in other.values():
        values[future] = 7
    changed = make_stays(seed, 6)
    object.__setattr__(changed, "channels", other)
    np.testing.assert_array_equal(
        builder.transform(changed)[kept.astype(int)], whole[kept.astype(int)]
    )


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_a_stay_is_alone_whatever_stands_beside_it(seed):
    stays = make_stays(seed, 6)
    builder = CausalFeatureBuilder("p19-windows-v1").fit(stays)
    whole = builder.transform(stays)
    order = np.random.default_rng(seed).permutation(6)
    mixed = builder.transform(stays.select(order))
    at = np.concatenate([[0], np.cumsum(stays.lengths[order])])
    for place, i in enumerate(order):
        np.testing.assert_array_equal(
            mixed[at[place] : at[place + 1]], whole[stays.offsets[i] : stays.offsets[i + 1]]
        )


def test_scaled_features_are_finite_standardised_and_say_what_is_missing():
    stays = make_stays(2, 40)
    builder = CausalFeatureBuilder("p19-windows-v1").fit(stays)
    scaled, raw = builder.transform(stays), builder.raw(stays)
    assert np.isfinite(scaled).all() and scaled.dtype == np.float32
    for block in ("last", "change", "mean", "min", "max"):
        columns = builder.columns(block=block)
        known = ~np.isnan(raw[:, columns])
        assert (scaled[:, columns][~known] == 0).all(), "missing is the mean"
        for k, column in enumerate(columns):
            x = scaled[known[:, k], column]
            if len(x) > 50:
                assert abs(x.mean()) < 1e-3 and x.std() == pytest.approx(1, abs=1e-3)
    since = builder.columns(block="since")
    expected = np.log1p(np.minimum(raw[:, since], 200)) / np.log(201)
    np.testing.assert_allclose(scaled[:, since], np.nan_to_num(expected, nan=1.0), rtol=1e-6)
    count = builder.columns(block="count")
    np.testing.assert_allclose(scaled[:, count], raw[:, count] / 8)
    assert set(np.unique(scaled[:, builder.columns(block="never")])) == {0, 1}


def test_a_column_the_first_site_never_saw_is_finite_and_learned_later():
    first, second = make_stays(0, 10), make_stays(1, 10)
    values = np.where(np.arange(second.n_rows) % 2, 30.0, 40.0).astype(np.float32)
    object.__setattr__(second, "channels", {**second.channels, "EtCO2": values})
    builder = CausalFeatureBuilder().fit(first)
    at = builder.names.index("EtCO2:last")
    assert not builder.statistics.seen[at]
    assert builder.statistics.mean[at] == 0 and builder.statistics.std[at] == 1
    before = builder.transform(first)
    # Without statistics of its own the value is not looked at: weights for it were never trained.
    assert (builder.transform(second)[:, builder.columns(channel="EtCO2")[:2]] == 0).all()
    live = builder.stream(age=60.0)
    assert all(live.step(row)[at] == 0 for row in second.matrix()[:5])
    builder.add_site("B", second)
    np.testing.assert_array_equal(builder.transform(first), before)
    np.testing.assert_array_equal(builder.transform(first, site="A"), before)
    own = builder.transform(second, site="B")
    assert abs(own[:, at].mean()) < 1e-5 and own[:, at].std() == pytest.approx(1, abs=1e-5)
    others = builder.columns(channel="HR")
    np.testing.assert_array_equal(own[:, others], builder.transform(second)[:, others])


def test_rows_can_be_chosen_and_chunks_do_not_show():
    stays = make_stays(4, 30)
    builder = CausalFeatureBuilder().fit(stays)
    whole = builder.transform(stays)
    mask = target(stays).at_risk
    np.testing.assert_array_equal(builder.transform(stays, mask), whole[mask])
    np.testing.assert_array_equal(builder.transform(stays, [3, 70, 71]), whole[[3, 70, 71]])
    assert builder.transform(stays, []).shape == (0, builder.n_features)
    few = CausalFeatureBuilder().fit(stays, mask)
    x = builder.raw(stays, mask)[:, 0]
    assert few.statistics.mean[0] == pytest.approx(np.nanmean(x.astype(np.float64)))
    assert few.statistics.std[0] == pytest.approx(np.nanstd(x.astype(np.float64)))
    for wrong in ([5, 5], [-1], [stays.n_rows], np.ones(3, bool)):
        with pytest.raises(ParameterError, match="rows"):
            builder.transform(stays, wrong)


def test_builders_travel_as_json_and_streams_as_arrays():
    stays = make_stays(5, 12)
    builder = CausalFeatureBuilder("p19-windows-v1").fit(stays).add_site("B", make_stays(6, 5))
    again = CausalFeatureBuilder.from_dict(json.loads(json.dumps(builder.to_dict())))
    assert again.fingerprint() == builder.fingerprint() and again.names == builder.names
    np.testing.assert_array_equal(again.transform(stays), builder.transform(stays))
    assert again.fit(stays.select(slice(0, 3))).fingerprint() != builder.fingerprint()
    i = int(np.argmax(stays.lengths))
    matrix = stays.select([i]).matrix()
    live = stream_of(builder, stays, i)
    for row in matrix[:40]:
        live.step(row)
    resumed = stream_of(builder, stays, i).restore(live.snapshot())
    assert resumed.hour == live.hour
    for row in matrix[40:]:
        np.testing.assert_array_equal(resumed.step(row), live.step(row))
    with pytest.raises(ParameterError, match="'ring'"):
        live.restore({**live.snapshot(), "ring": np.zeros(3)})
    for change in ({"schema": []}, {"spec": {}}, {"statistics": {"": {"mean": [1]}}}):
        with pytest.raises(ParameterError, match=r"no features|no variable"):
            CausalFeatureBuilder.from_dict({**builder.to_dict(), **change})


def test_observations_in_any_order_within_the_hour_give_the_features_of_the_table():
    rng = np.random.default_rng(0)
    rows = [
        ("x", str(c), float(rng.uniform(20, 40)), float(t), float(min(t + rng.exponential(1), 30)))
        for c, t in zip(
            rng.choice(["HR", "Temp", "Lactate"], 80), rng.uniform(0, 30, 80), strict=True
        )
    ]
    frame = pl.DataFrame(rows, schema=["id", "channel", "value", "time", "arrival"], orient="row")
    stays = bin_observations(frame, pl.DataFrame({"id": ["x"], "hours": [30], "age": [50.0]}))
    builder = CausalFeatureBuilder().fit(stays)
    expected = builder.transform(stays)
    live = builder.stream(age=50.0)
    for hour in range(1, 31):
        for _, channel, value, time, arrival in rng.permutation(np.array(rows, object)):
            if np.ceil(arrival) == hour:
                live.add(Observation(channel, value, time, arrival))
        np.testing.assert_array_equal(live.close(), expected[hour - 1])
    assert live.hour == 30


def test_impossible_values_count_as_not_measured_unless_told():
    stays = make_stays(0, 3)
    values = np.full(stays.n_rows, np.nan, np.float32)
    values[:3] = [4000, 0.4, -50]
    object.__setattr__(stays, "channels", {**stays.channels, "FiO2": values})
    object.__setattr__(stays, "lengths", np.array([3, 0, 0]))
    at = stays.schema.names.index("FiO2")
    np.testing.assert_array_equal(carry_forward(stays)[:, at], np.float32([np.nan, 0.4, 0.4]))
    np.testing.assert_array_equal(
        carry_forward(stays, bounded=False)[:, at], np.float32([4000, 0.4, -50])
    )


def test_wrong_use_is_refused():
    stays = make_stays(0, 3)
    with pytest.raises(NotFittedError, match="fit"):
        CausalFeatureBuilder().transform(stays)
    with pytest.raises(NotFittedError, match="fit"):
        CausalFeatureBuilder().stream()
    with pytest.raises(DataError, match="other channels"):
        CausalFeatureBuilder(schema=Schema.default().channels("vitals")).raw(stays)
    with pytest.raises(DataError, match="no hour"):
        CausalFeatureBuilder().fit(stays, np.zeros(stays.n_rows, bool))
    with pytest.raises(ParameterError, match="'slope'"):
        FeatureSpec(blocks=("slope",))
    with pytest.raises(ParameterError, match="p18"):
        CausalFeatureBuilder("p18")
    with pytest.raises(ParameterError, match="34 channels"):
        CausalFeatureBuilder().fit(stays).stream().step([1, 2])
    with pytest.raises(ParameterError, match="336"):
        FeatureSpec(mean_hours=1000)


def test_the_time_blind_features_do_not_tell_the_time():
    names = CausalFeatureBuilder("time-blind-v1").names
    assert not [n for n in names if n in ("hour", "admission") or "since" in n or "never" in n]


def test_piecewise_linear_encoding_by_hand():
    x = np.arange(13.0)[:, None]
    encoder = PiecewiseLinearEncoder(4, keep=False).fit(x)
    assert encoder.knots[0].tolist() == [0, 4, 8, 12]
    found = encoder.transform([[-1], [0], [2], [4], [9], [12], [99], [np.nan]])
    expected = [[0, 0, 0], [0, 0, 0], [0.5, 0, 0], [1, 0, 0], [1, 1, 0.25], [1, 1, 1], [1, 1, 1],
                [0, 0, 0]]  # fmt: skip
    np.testing.assert_allclose(found, expected)
    assert encoder.n_outputs == 3


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_the_encoding_is_monotone_and_bounded(seed):
    rng = np.random.default_rng(seed)
    x = rng.choice([rng.normal(size=200), rng.integers(0, 3, 200), np.zeros(200)])[:, None]
    x = np.hstack([x, rng.lognormal(size=(200, 1)), np.full((200, 1), np.nan)])
    encoder = PiecewiseLinearEncoder(7)
    found = encoder.fit_transform(x)
    assert found.shape == (200, encoder.n_outputs) and np.isfinite(found).all()
    parts = found[:, 3:]
    assert parts.min(initial=0) >= 0 and parts.max(initial=0) <= 1
    order = np.argsort(x[:, 1])
    mine = parts[:, -max(len(encoder.knots[1]) - 1, 1) :]
    assert (np.diff(mine[order], axis=0) >= 0).all()
    told = PiecewiseLinearEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    np.testing.assert_array_equal(told.transform(x), found)


def test_a_standardised_encoding_has_columns_alike_and_bounded_gain():
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(3, 2, 900), rng.random(900) < 0.001, rng.lognormal(size=900)]
    plain = PiecewiseLinearEncoder(5).fit(x)
    raw = plain.transform(x)
    encoder = PiecewiseLinearEncoder(5).fit(x).standardise(x)
    found = encoder.transform(x)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    spread = raw.std(axis=0)
    np.testing.assert_allclose(found.std(axis=0), spread / np.maximum(spread, 0.05), rtol=1e-3)
    again = PiecewiseLinearEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    np.testing.assert_array_equal(again.transform(x), found)
    assert PiecewiseLinearEncoder.from_dict(plain.to_dict()).centre is None
    broken = {**encoder.to_dict(), "spread": [0.0] * encoder.n_outputs}
    with pytest.raises(ParameterError, match="not positive"):
        PiecewiseLinearEncoder.from_dict(broken)
    with pytest.raises(ParameterError, match="do not fit the encoding"):
        PiecewiseLinearEncoder.from_dict({**encoder.to_dict(), "centre": [0.0]})


def test_encoders_refuse_what_does_not_fit():
    with pytest.raises(NotFittedError):
        PiecewiseLinearEncoder().transform([[1.0]])
    with pytest.raises(ParameterError, match="2 features"):
        PiecewiseLinearEncoder().fit(np.zeros((3, 2))).transform([[1.0]])
    with pytest.raises(ParameterError, match="ascend"):
        PiecewiseLinearEncoder.from_dict({"n_knots": 3, "keep": True, "knots": [[2, 1]]})


@pytest.mark.real_data
def test_real_stays_stream_as_they_are_tabled(challenge):
    rng = np.random.default_rng(0)
    some = challenge.select(np.sort(rng.choice(len(challenge), 300, replace=False)))
    builder = CausalFeatureBuilder("p19-windows-v1").fit(some)
    table = builder.transform(some)
    assert np.isfinite(table).all()
    for i in range(0, 300, 3):
        live = stream_of(builder, some, i)
        rows = np.stack([live.step(row) for row in some.select([i]).matrix()])
        assert np.abs(rows - table[some.offsets[i] : some.offsets[i + 1]]).max() <= 1e-6
    cut = np.minimum(some.lengths, rng.integers(1, 60, 300))
    kept = np.concatenate([np.arange(a, a + n) for a, n in zip(some.offsets, cut, strict=False)])
    np.testing.assert_array_equal(builder.transform(some.first(cut)), table[kept])


@pytest.mark.real_data
def test_the_defects_of_the_challenge_do_not_reach_the_features(challenge):
    first = challenge.of("site", "A-MICU").select(slice(0, 800))
    builder = CausalFeatureBuilder().fit(first)
    assert not builder.statistics.seen[builder.names.index("EtCO2:last")]
    other = challenge.of("hospital", "B").select(slice(0, 800))
    raw = builder.raw(other)
    gas = raw[:, builder.names.index("FiO2:last")]
    assert np.nanmin(gas) >= 0.15 and np.nanmax(gas) <= 1, "B charts FiO2 up to 4000"
    assert np.nanmax(raw[:, builder.names.index("age")]) <= 90
    assert np.isfinite(builder.transform(other)).all()


WORDS = {1.0: ("male", "Male", "M", "m ", "1"), 0.0: ("female", "FEMALE", "f", "0"),
         np.nan: ("unknown", "Other", "A", "N", "O", "U", "", None)}  # fmt: skip


def test_the_usual_words_for_a_sex_are_understood_in_tables_and_streams():
    stays = make_stays(3, 24)
    words = [(w, number) for number, some in WORDS.items() for w in some]
    told = replace(stays.select(slice(0, len(words))), categories={
        "unit": stays.select(slice(0, len(words))).categories["unit"],
        "sex": Categorical.from_values([w for w, _ in words]),
    })  # fmt: skip
    builder = CausalFeatureBuilder().fit(stays)
    raw, table = builder.raw(told), builder.transform(told)
    column = builder.names.index("sex")
    for i, (word, number) in enumerate(words):
        first = told.offsets[i]
        np.testing.assert_equal(raw[first, column], np.float32(number))
        unit = told.names("unit")[i]
        live = builder.stream(
            age=told.number("age")[i], admission=told.number("admission")[i], sex=word,
            start=int(told.starts[i]), unit=None if unit == "unknown" else unit,
        )  # fmt: skip
        rows = np.stack([live.step(row) for row in told.select([i]).matrix()])
        assert np.abs(rows - table[first : told.offsets[i + 1]]).max() <= 1e-6
    assert builder.stream(sex=1.0, scaled=False).step(np.full(34, np.nan))[column] == 1
    assert np.isnan(builder.stream(sex=np.nan, scaled=False).step(np.full(34, np.nan))[column])


@pytest.mark.parametrize("letter", ["M", "F", "f", "A", "N", "O", "U", "", "X"])
def test_what_readers_make_of_a_sex_is_no_error(letter):
    from foretell.data.clinical.fhir import FhirReader
    from foretell.data.clinical.hl7 import Hl7Reader, Message
    from foretell.data.clinical.hl7.writer import visit_message

    message = visit_message("S", "P", "A01", time=1.7e9, control="c", sex=letter, admitted=1.7e9)
    visit = Hl7Reader("S").read(Message.from_bytes(message))[0]
    words = {"M": "male", "F": "female", "O": "other", "U": "unknown"}
    person = {"resourceType": "Patient", "id": "P", "meta": {"lastUpdated": "2026-01-01T10:00:00Z"},
              "gender": words.get(letter.upper(), letter)}  # fmt: skip
    told = FhirReader("S").read(person)[0]
    builder = CausalFeatureBuilder(FeatureSpec(static=("sex",)))
    wanted = {"M": 1.0, "F": 0.0}.get(letter.upper(), np.nan)
    for found in (visit.sex, told.sex):
        hour = builder.stream(sex=found, scaled=False).step(np.full(34, np.nan))
        np.testing.assert_equal(hour[builder.names.index("sex")], np.float32(wanted))


@pytest.mark.parametrize("word", ["robot", "2", "Mrs", 2.0, 0.5])
def test_another_word_for_a_sex_is_refused_not_taken_as_unknown(word):
    stays = make_stays(3, 24)
    builder = CausalFeatureBuilder().fit(stays)
    with pytest.raises(ParameterError, match="no sex that is known: give 'male' or 'female'"):
        builder.stream(sex=word)
    named = Categorical.from_values([str(word)] * 24)
    with pytest.raises(ParameterError, match="no sex that is known"):
        builder.raw(replace(stays, categories={**stays.categories, "sex": named}))
    blind = CausalFeatureBuilder(FeatureSpec(static=("age",))).fit(stays)
    blind.stream(sex=word)


def rarely(values, *, patients=40, twice=True):
    """Stays of which patients with a number have one lactate of those ``values``, in two stays."""
    size = 2 * patients if twice else patients
    rng = np.random.default_rng(0)
    schema = Schema.default().channels("p19")
    lengths = np.full(size, 6)
    columns = {v.name: np.full(6 * size, np.nan, np.float32) for v in schema.variables}
    columns["HR"] = rng.uniform(60, 90, 6 * size).astype(np.float32)
    whose = np.arange(size) // 2 if twice else np.arange(size)
    for patient, value in enumerate(values):
        for stay in np.flatnonzero(whose == patient):
            columns["Lactate"][6 * stay + 2 : 6 * stay + 4] = value, value + 1
    begins = np.cumsum(lengths) - lengths
    unit = np.where(whose < len(values), 1, 2).astype(np.int32)
    return Stays(
        np.array([f"S{i}" for i in range(size)], object),
        np.array([f"P{p}" for p in whose], object), begins, lengths, np.ones(size, np.int64),
        columns, schema, None, np.full(size, np.nan),
        {
            "unit": Categorical(unit, ("MICU", "SICU")),
            "sex": Categorical(np.where(whose < 3, 2, 1).astype(np.int32), ("female", "male")),
        },
        {},
    )  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_what_fewer_than_ten_patients_have_says_nothing_of_them(spec):
    def fitted(count, change=0.0, rows=None, **how):
        stays = rarely(np.linspace(1, 3, count) + change, **how)
        builder = CausalFeatureBuilder(spec).fit(stays, rows)
        return builder, builder.to_dict()["statistics"][""]

    builder, told = fitted(9)
    # The tables are the same whatever was measured in them, and as if they had it never.
    assert told == fitted(9, 2.0)[1]
    own = builder.columns(channel="Lactate")
    without = fitted(0)[1]
    assert not np.array(told["seen"])[builder.columns(block="last", channel="Lactate")].any()
    for table in ("mean", "std"):
        np.testing.assert_array_equal(np.array(told[table])[own], np.array(without[table])[own])
    hour = dict(zip(builder.names, builder.reference(), strict=True))
    # The sex is known of all.
    assert hour["unit_MICU"] == 0 and hour["sex"] == pytest.approx(3 / 40)
    stays = rarely(np.linspace(1, 3, 9))
    scaled = builder.transform(stays)
    assert not scaled[:, builder.columns(block="last", channel="Lactate")].any()
    live = np.stack([stream_of(builder, stays, 0).step(row) for row in stays.matrix()[:1]])
    np.testing.assert_array_equal(live, scaled[:1])
    # One more patient, and they are many.
    builder, told = fitted(10)
    assert told != fitted(10, 2.0)[1]
    last = builder.names.index("Lactate:last")
    assert told["seen"][last] and told["mean"][last] == pytest.approx(2.8, abs=0.1)
    assert builder.reference()[builder.names.index("unit_MICU")] == pytest.approx(0.25)
    # Patients whose hours do not count have nothing.
    rows = np.ones(480, bool)
    rows[:12] = False
    assert not fitted(10, rows=rows)[1]["seen"][last]
    # Of nine in all everything would be left out.
    builder, told = fitted(9, patients=9, twice=False)
    assert told["seen"][last] and told["seen"][builder.names.index("HR:last")]


def test_a_later_site_tells_nothing_of_few_patients_either():
    builder = CausalFeatureBuilder().fit(rarely([]))
    last = builder.names.index("Lactate:last")
    few, many = (np.linspace(1, 3, n) for n in (9, 10))
    builder.add_site("few", rarely(few)).add_site("many", rarely(many))
    assert not builder.sites["few"].seen[last] and builder.sites["many"].seen[last]


def test_the_reference_hour_is_the_mean_hour_of_flags_too():
    stays = make_stays()
    builder = CausalFeatureBuilder(schema=stays.schema).fit(stays)
    told, hour = builder.transform(stays), builder.reference()
    flags = np.concatenate([builder.columns(block=b) for b in ("since", "never")])
    np.testing.assert_allclose(hour[flags], told[:, flags].mean(axis=0), atol=1e-6)
    assert np.ptp(hour[flags]) > 0.5
    units = [i for i, n in enumerate(builder.names) if n.startswith("unit_")]
    assert hour[units].sum() == pytest.approx(1, abs=1e-6)
    assert not hour[builder.columns(block="last")].any()
    own = builder.columns(channel=stays.schema.names[7])  # which no stay has
    assert np.all(told[:, own] == hour[own]) and hour[own].any()
    again = CausalFeatureBuilder.from_dict(builder.to_dict())
    np.testing.assert_array_equal(again.reference(), hour)
    with pytest.raises(NotFittedError):
        CausalFeatureBuilder(schema=stays.schema).reference()


def test_endless_numbers_of_a_stay_are_not_known():
    stays = make_stays(0)
    builder = CausalFeatureBuilder("p19-v1", schema=stays.schema).fit(stays)
    odd, none = (
        replace(stays, numbers={n: np.full(len(stays), v) for n in ("age", "admission")})
        for v in (-np.inf, np.nan)
    )
    np.testing.assert_array_equal(builder.transform(odd), builder.transform(none))
    fitted = CausalFeatureBuilder("p19-v1", schema=stays.schema).fit(odd)
    assert not fitted.statistics.seen[fitted.names.index("admission")]
    live = builder.stream(age=np.inf, admission=np.inf).step(odd.matrix()[0])
    assert np.isfinite(live).all()
