"""The feature pack looks only back, says what it claims, and has no holes at the edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.errors import DataError, ParameterError
from foretell.learners.demand.features import (
    DenseScaler,
    FeaturePack,
    FeatureRows,
    default_features,
    sample_rows,
    to_sparse,
)
from foretell.learners.demand.features.calendar import easter_periods

WEEKS = Frequency.parse("W", example=np.datetime64("2020-01-03"))
HORIZON = 8


def make_panel(n=12, length=120, season=52, seed=0, ragged=True):
    """Weekly series with a season, a price, an event, weather and two categories."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, n) if ragged else np.full(n, length)
    lengths[0] = length
    first = int(WEEKS.index(np.array(["2020-01-03"], "datetime64[us]"))[0])
    starts = first + length - lengths
    known_lengths = lengths + HORIZON + 4
    y, price, event, weather = [], [], [], []
    for i in range(n):
        steps = np.arange(known_lengths[i]) + starts[i] - first
        wave = 10 * (i + 1) * (1.5 + np.sin(2 * np.pi * steps / season))
        values = wave * rng.gamma(9, 1 / 9, len(steps))
        values[rng.random(len(steps)) < 0.05] = np.nan
        y.append(values[: lengths[i]])
        price.append(rng.uniform(1, 2, len(steps)))
        event.append((steps % 29 == 7).astype(float))
        weather.append(rng.normal(size=lengths[i]))
    return Panel.from_arrays(
        y,
        ids=[f"s{i}" for i in range(n)],
        frequency=WEEKS,
        start=starts,
        known={
            "price": np.concatenate(price).astype(np.float32),
            "feast": np.concatenate(event).astype(np.float32),
        },
        known_begins=np.concatenate([[0], np.cumsum(known_lengths)[:-1]]),
        known_lengths=known_lengths,
        past={"weather": np.concatenate(weather).astype(np.float32)},
        static_categorical={"shop": Categorical.from_values([f"shop{i % 3}" for i in range(n)])},
        static_real={"size": np.arange(n, dtype=np.float32)},
        events=("feast",),
    )


@pytest.fixture(scope="module")
def panel():
    return make_panel()


@pytest.fixture(scope="module")
def pack(panel):
    return FeaturePack(HORIZON).fit(panel)


def columns(pack, matrix):
    return {name: matrix.values[:, j] for j, name in enumerate(pack.names_)}


def corrupt_after(panel, keep):
    """Noise in the target and past covariates from step ``keep`` of each series on."""
    rng = np.random.default_rng(1)
    target, weather = panel.target.copy(), panel.past["weather"].copy()
    for i in range(len(panel)):
        part = slice(panel.begins[i] + keep[i], panel.begins[i] + panel.lengths[i])
        target[part] = rng.normal(1e4, 1e3, target[part].shape)
        weather[part] = rng.normal(size=weather[part].shape)
    return replace(panel, target=target, past={"weather": weather})


def test_nothing_after_the_origin_is_read(panel, pack):
    back = 20  # at one absolute period for all: group totals may read other series up to it
    keep = panel.lengths - back
    series = np.repeat(np.arange(len(panel)), HORIZON)
    rows = FeatureRows(series, keep[series] - 1, np.tile(np.arange(1, HORIZON + 1), len(panel)))
    clean = pack.compute(panel, rows)
    dirty = pack.compute(corrupt_after(panel, keep), rows)
    for got, want in zip(dirty.values.T, clean.values.T, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(dirty.scale, clean.scale)
    np.testing.assert_array_equal(dirty.anchor, clean.anchor)
    cut = pack.compute(panel.cut(back), rows)
    np.testing.assert_allclose(cut.values, clean.values, rtol=1e-5, atol=1e-6)
    late = replace(rows, origins=rows.origins + 5, horizons=rows.horizons)
    changed = pack.compute(corrupt_after(panel, keep), late)
    assert not np.array_equal(changed.anchor, pack.compute(panel, late).anchor)  # the test bites


def test_against_plain_loops(panel, pack):
    rng = np.random.default_rng(3)
    series = rng.integers(0, len(panel), 40)
    origins = np.array([rng.integers(5, panel.lengths[i] - HORIZON) for i in series])
    horizons = rng.integers(1, HORIZON + 1, 40)
    matrix = pack.compute(panel, FeatureRows(series, origins, horizons))
    got = columns(pack, matrix)
    for r, (i, t, k) in enumerate(zip(series, origins, horizons, strict=True)):
        y = panel.series(i).astype(np.float64)
        scale = np.nanmean(np.abs(y[max(0, t - 51) : t + 1]))
        assert matrix.scale[r] == pytest.approx(scale)

        def at(step, y=y, t=t):
            return y[step] if 0 <= step <= t else np.nan

        step = t + k - 52
        if np.isnan(at(step)) and not np.isnan(at(step - 52)):
            step -= 52
        expected = {"lag": at(step) / scale, "lag_before": at(step - 1) / scale}
        expected["lag_after"] = at(t + k - 51) / scale
        for w in (1, 4, 13, 26, 52):
            part = y[max(0, t - w + 1) : t + 1]
            expected[f"mean_{w}"] = np.nanmean(part) / scale if np.isfinite(part).any() else np.nan
        part = y[max(0, t - 12) : t + 1]
        seen = np.flatnonzero(np.isfinite(part))
        if len(seen) >= 3:
            expected["slope"] = np.polyfit(seen, part[seen], 1)[0] * 13 / scale
        prices = panel.known["price"][panel.known_begins[i] :][: panel.known_lengths[i]]
        expected["price"] = prices[t + k]
        expected["price_relative"] = prices[t + k] / prices[max(0, t - 25) : t + 1].mean()
        for name, value in expected.items():
            assert got[name][r] == pytest.approx(value, rel=1e-4, nan_ok=True), (name, r)


def test_group_growth_compares_the_same_series(panel, pack):
    t = panel.lengths - 1
    rows = FeatureRows(np.arange(len(panel)), t, np.ones(len(panel), np.int64))
    got = columns(pack, pack.compute(panel, rows))
    shops = panel.static_categorical["shop"].codes
    for r in range(len(panel)):
        now = before = 0.0
        for j in np.flatnonzero(shops == shops[r]):
            y = panel.series(j).astype(np.float64)
            for step in range(len(y) - 4, len(y)):
                if step >= 52 and np.isfinite(y[step]) and np.isfinite(y[step - 52]):
                    now, before = now + y[step], before + y[step - 52]
        assert got["shop_growth_4"][r] == pytest.approx(now / before, rel=1e-5)


def test_event_distances_and_the_aligned_lag(panel, pack):
    first = panel.starts[0]
    t, k = 60, 5  # feasts of series 0 at steps 7, 36, 65, 94
    rows = FeatureRows(np.array([0, 0]), np.array([t, t]), np.array([k, k + 1]))
    got = columns(pack, pack.compute(panel, rows))
    assert panel.starts[0] == first
    assert got["feast"].tolist() == [1.0, 0.0]
    assert got["feast_distance"].tolist() == [0.0, 1.0]
    assert np.isnan(got["feast_lag_distance"][0])  # step 13 is six steps after the feast of 7
    y, scale = panel.series(0), pack.compute(panel, rows).scale
    expected = [y[36] / scale[0], y[37] / scale[1]]
    np.testing.assert_allclose(got["lag_aligned"], expected, rtol=1e-5)
    assert got["misaligned_events"][0] >= 1


@given(st.integers(1, 60), st.integers(0, 200), st.integers(1, 80), st.integers(-2, 2))
def test_lags_never_lie_ahead(season, origin, horizon, shift):
    panel = Panel.from_arrays([np.arange(201.0)])
    pack = FeaturePack(80, season_length=season).fit(panel)
    rows = FeatureRows(np.array([0]), np.array([origin]), np.array([horizon]))
    view = next(pack._views(panel, rows, pack.tables(panel)))[1]
    step = int(view.lagged(season, shift)[0])
    assert step - min(shift, 0) <= origin and step <= origin
    assert (origin + horizon + shift - step) % season == 0


def test_easter_weeks():
    fridays = Frequency.parse("W-FRI")
    dates = np.array(["2010-01-01", "2012-12-28"], "datetime64[us]")
    periods = easter_periods(fridays, *(int(p) for p in fridays.index(dates)))
    assert [str(t)[:10] for t in fridays.time(periods)] == [
        "2010-04-02", "2011-04-22", "2012-04-06",
    ]  # fmt: skip
    assert easter_periods(Frequency(), 0, 1000).size == 0


def test_scale_equivariance(panel):
    large = replace(panel, target=panel.target * np.float32(64))
    rows = FeatureRows.ahead(panel, np.arange(len(panel)), HORIZON)
    one = FeaturePack(HORIZON).fit(panel)
    other = FeaturePack(HORIZON).fit(large)
    a, b = one.compute(panel, rows), other.compute(large, rows)
    np.testing.assert_allclose(b.scale, 64 * a.scale, rtol=1e-6)
    keep = [j for j, name in enumerate(one.names_) if name != "log_scale"]
    np.testing.assert_allclose(b.values[:, keep], a.values[:, keep], rtol=1e-4, atol=1e-5)


def test_rows_in_any_order_and_in_blocks(panel, pack, monkeypatch):
    rows = FeatureRows.ahead(panel, np.arange(len(panel)), HORIZON)
    whole = pack.compute(panel, rows)
    order = np.random.default_rng(0).permutation(len(rows))
    monkeypatch.setattr("foretell.learners.demand.features.pack.BLOCK", 300)
    parts = pack.compute(panel, rows.select(order))
    np.testing.assert_array_equal(parts.values, whole.values[order])
    np.testing.assert_array_equal(parts.codes, whole.codes[order])


def test_state_comes_back(panel, pack):
    again = FeaturePack.from_state(pack.state(), pack.arrays())
    rows = FeatureRows.ahead(panel, np.arange(len(panel)), HORIZON)
    np.testing.assert_array_equal(
        again.compute(panel, rows).values, pack.compute(panel, rows).values
    )


def test_unknown_category_and_missing_columns(panel, pack):
    other = replace(
        panel, static_categorical={"shop": Categorical.from_values(["new"] * len(panel))}
    )
    rows = FeatureRows.ahead(other, np.arange(len(other)), HORIZON)
    matrix = pack.compute(other, rows)
    assert (matrix.codes == 0).all()
    assert np.isnan(columns(pack, matrix)["static_shop"]).all()
    assert np.isnan(columns(pack, matrix)["shop_index"]).all()
    with pytest.raises(DataError, match="weather"):
        pack.compute(replace(panel, past={}), rows)
    with pytest.raises(DataError, match="shop"):
        pack.compute(replace(panel, static_categorical={}), rows)


def test_short_empty_and_zero_series():
    nothing = np.full(5, np.nan)
    panel = Panel.from_arrays(
        [np.arange(1.0, 31), [3.0], [], nothing, np.zeros(40)], frequency=WEEKS
    )
    pack = FeaturePack(4, season_length=7).fit(panel)
    matrix = pack.compute(panel, FeatureRows.ahead(panel, np.arange(5), 4))
    assert np.isfinite(matrix.scale).all() and (matrix.scale > 0).all()
    assert np.isfinite(matrix.anchor).all()
    assert not np.isinf(matrix.values).any()
    with pytest.raises(DataError, match="empty"):
        FeaturePack(4).fit(panel.select(np.array([2])))
    with pytest.raises(ParameterError, match="season_length"):
        FeaturePack(4, season_length=0).fit(panel)


def test_sampled_rows_are_honest_and_unbiased(panel):
    rng = np.random.default_rng(0)
    censored = np.zeros(panel.target.size, bool)
    censored[::7] = True
    panel = replace(panel, censored=censored)
    rows, y, weights = sample_rows(panel, HORIZON, 20_000, season=52, rng=rng, tilt=0.5, early=0.2)
    steps = rows.origins + rows.horizons
    flat = panel.begins[rows.series] + steps
    assert np.isfinite(y).all() and not censored[flat].any()
    np.testing.assert_allclose(y, panel.target[flat])
    assert (rows.horizons >= 1).all() and (rows.horizons <= HORIZON).all()
    assert (rows.origins >= 0).all() and (steps < panel.lengths[rows.series]).all()
    # Weighted by what undoes the tilt, every late target counts the same.
    first = np.array([np.flatnonzero(np.isfinite(s))[0] for s in panel])
    late = steps - first[rows.series] >= 52
    share = np.bincount(rows.series[late], weights[late], minlength=len(panel))
    seen = np.isfinite(panel.target) & ~censored
    count = np.array(
        [
            seen[b : b + n][f + 52 :].sum()
            for b, n, f in zip(panel.begins, panel.lengths, first, strict=True)
        ]
    )
    np.testing.assert_allclose(share / share.sum(), count / count.sum(), atol=0.01)
    with pytest.raises(DataError, match="two observed"):
        sample_rows(Panel.from_arrays([[1.0], []]), 3, 10, season=1, rng=rng)


def test_sparse_keeps_zeros_and_drops_absences():
    values = np.array([[0.0, np.nan, 2.0], [np.nan, np.nan, np.nan]], np.float32)
    matrix = to_sparse(values)
    assert matrix.nnz == 2
    assert matrix.indices.tolist() == [0, 2] and matrix.data.tolist() == [0.0, 2.0]


def test_dense_scaling():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (1000, 5)).astype(np.float32)
    values[::3, 1] = np.nan
    values[:, 2] = np.nan  # never there in training
    values[:, 3] = 7.0  # constant
    values[0, 0] = 1e9
    scaler = DenseScaler().fit(values)
    dense = scaler.transform(values)
    assert dense.shape == (1000, scaler.width) and scaler.width == 4  # 0, 1, 4 and 1's indicator
    assert np.isfinite(dense).all() and np.abs(dense).max() <= 8
    assert (dense[::3, 1] == 0).all() and (dense[::3, 3] == 1).all()
    shown = values.copy()
    shown[:, 2] = 3.0
    np.testing.assert_array_equal(scaler.transform(shown), dense)
    again = DenseScaler.from_state(scaler.state())
    np.testing.assert_array_equal(again.transform(values), dense)


def test_a_feature_of_ones_own(panel):
    from foretell.learners.demand.features import Feature

    class Peak(Feature):
        def compute(self, rows):
            return {"last_over_scale": rows.value(rows.origins) / rows.scale}

    pack = FeaturePack(HORIZON, features=[*default_features(), Peak()]).fit(panel)
    assert pack.names_[-1] == "last_over_scale"
    with pytest.raises(ParameterError, match="twice"):
        FeaturePack(HORIZON, features=[Peak(), Peak()]).fit(panel)


def test_covariates_in_another_order_give_the_same_features():
    panel = make_panel()
    panel = replace(
        panel,
        known={**panel.known, "discount": panel.known["price"] * 3 + 1},
        past={**panel.past, "traffic": panel.past["weather"] * 2 + 5},
        static_real={**panel.static_real, "age": panel.static_real["size"] + 40},
    )
    turned = replace(
        panel,
        **{
            kind: dict(reversed(list(getattr(panel, kind).items())))
            for kind in ("known", "past", "static_real")
        },
    )
    pack = FeaturePack(HORIZON).fit(panel)
    rows = FeatureRows.ahead(panel, np.arange(len(panel)), HORIZON)
    np.testing.assert_array_equal(
        pack.compute(turned, rows).values, pack.compute(panel, rows).values
    )


def test_events_that_are_no_longer_marked_are_refused():
    panel = make_panel()
    rows = FeatureRows.ahead(panel, np.arange(2), HORIZON)
    pack = FeaturePack(HORIZON).fit(panel)
    assert panel.events
    with pytest.raises(DataError, match="not those of the fit"):
        pack.compute(replace(panel, events=()), rows)


def test_group_totals_are_those_of_the_fit_and_go_on_with_newer_periods(panel):
    past = panel.cut(10)
    pack = FeaturePack(HORIZON).fit(past)
    few = panel.select(np.array([0, 2]))
    fitted, now = pack.groups_["all"], pack.tables(few)["all"]
    alone = FeaturePack(HORIZON).fit(few).groups_["all"]
    group, end = np.zeros(1, np.int64), past.ends.max()

    def total(tables, first, last):
        return tables.total("value", group, np.array([first]), np.array([last]))[0]

    first = int(panel.starts.min())
    assert total(now, first, end) == pytest.approx(total(fitted, first, end))
    assert total(now, end + 1, end + 10) == pytest.approx(total(alone, end + 1, end + 10))
    assert total(alone, first, end) < 0.9 * total(fitted, first, end)
    assert pack.tables(past.select(np.array([1])))["all"] is fitted
