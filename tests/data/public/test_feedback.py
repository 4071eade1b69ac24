from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.data import registry
from foretell.data.public import adult, completejourney, hotel_bookings, movielens_100k, starbucks
from foretell.data.public.feedback import LATE_BOOKING_COLUMNS
from foretell.errors import ParameterError

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def offers(data_set):
    return starbucks(data_set("starbucks_offers"))


@pytest.fixture(scope="module")
def bookings(data_set):
    return hotel_bookings(data_set("hotel_bookings"))


def test_offers_come_in_six_waves(offers):
    waves, counts = np.unique(offers.times, return_counts=True)
    assert len(offers) == 61_042 and waves.tolist() == [0, 168, 336, 408, 504, 576]
    assert np.all((counts > 10_000) & (counts < 10_300))
    assert offers.window == 240 and offers.now == 714 and offers.unit == "h"
    assert set(np.unique(offers.windows)) == {120, 168, 240}
    # The last wave is censored at 138 h: only offers of 5 days are over.
    last = offers.times == 576
    np.testing.assert_array_equal(offers.matured[last], offers.windows[last] == 120)
    assert offers.matured[offers.times <= 408].all()


def test_rates_and_delays_of_offers(offers, data_set):
    delay, seen = offers.delay(), offers.delay("view")
    positive = np.isfinite(delay)
    assert positive.mean() == pytest.approx(0.388, abs=0.0025)
    assert np.isfinite(seen).mean() == pytest.approx(0.769, abs=0.006)
    assert np.quantile(delay[positive], [0.1, 0.5, 0.9]).tolist() == [12, 54, 132]
    assert delay[positive].max() == 240 and np.median(seen[np.isfinite(seen)]) == 12
    assert np.all(seen[positive] <= delay[positive]), "the funnel is strict"
    snapshot = offers.until(336 + 48)
    wave = snapshot.times == 336
    visible = snapshot.label()[wave].sum() / offers.label()[offers.times == 336].sum()
    assert visible == pytest.approx(0.48, abs=0.015)
    plain = starbucks(data_set("starbucks_offers"), require_view=False)
    assert plain.label().mean() == pytest.approx(0.551, abs=0.002)


def test_counting_an_outcome_for_every_open_offer_gives_the_published_rates(data_set):
    folder = data_set("starbucks_offers")
    every = starbucks(folder, matching="every")
    assert round(every.label().mean(), 3) == 0.388
    assert round(every.label("view").mean(), 3) == 0.769
    plain = starbucks(folder, matching="every", require_view=False)
    assert round(plain.label().mean(), 3) == 0.551
    with pytest.raises(ParameterError, match="'latest' or 'every'"):
        starbucks(folder, matching="first")


def test_features_of_offers_are_known_when_they_are_received(offers, data_set):
    table = offers.frame()
    kinds = [c for c in offers.feature_names if c.startswith("offer_")]
    assert len(kinds) == 8 and (table.select(pl.sum_horizontal(kinds)).to_series() == 1).all()
    assert table["age"].max() < 118 and 0.1 < table["age"].is_nan().mean() < 0.2
    assert offers.categorical_features == ("gender",)
    first = offers.times == 0
    assert (table["past_spend"].to_numpy()[first] == 0).all()
    # By hand for some offers: transactions strictly before.
    events = pl.read_parquet(data_set("starbucks_offers") / "transcript.parquet")
    sales = events.filter(pl.col("event") == "transaction")
    rng = np.random.default_rng(0)
    for row in rng.choice(np.flatnonzero(~first), 20, replace=False):
        person, t = offers.ids[row].split("/")[0], offers.times[row]
        mine = sales.filter(pl.col("person") == person, pl.col("time") < t)
        weeks = t / 168
        values = table.row(int(row), named=True)
        assert values["past_transactions"] == pytest.approx(np.log1p(len(mine) / weeks))
        assert values["past_spend"] == pytest.approx(np.log1p(mine["amount"].sum() / weeks))


def test_an_outcome_belongs_to_one_offer(offers, data_set):
    # 33,579 completions and 57,725 views were logged; none is counted for two offers.
    assert starbucks(data_set("starbucks_offers"), require_view=False).label().sum() <= 33_579
    assert offers.label("view").sum() <= 57_725


def test_cancellations_of_bookings(bookings):
    delay = bookings.delay()
    cancelled = np.isfinite(delay)
    assert len(bookings) == 119_390 and cancelled.mean() == pytest.approx(0.370416, abs=1e-6)
    assert np.quantile(delay[cancelled], [0.25, 0.5, 0.75]).tolist() == [3, 26, 85]
    assert delay[cancelled].max() == 584 and bookings.unit == "d"
    # Known on the day of arrival at the latest: no label is left open by the window.
    np.testing.assert_array_equal(bookings.windows, bookings.frame()["lead_time"].to_numpy())
    assert sorted(bookings.ids) == list(range(119_390)), "duplicates are kept"


def test_labels_of_bookings_become_known_with_time(bookings):
    early = bookings.until("2016-10-01")
    final = bookings.select(np.arange(len(early)))
    assert early.label().mean() < final.label().mean() - 0.02
    known = early.matured | (early.label() == 1)
    np.testing.assert_array_equal(early.label()[known], final.label()[known])
    assert 0.1 < (~known).mean() < 0.25
    rows = bookings.emit("esdfm", "2d", until="2016-01-01")
    assert len(rows) and rows.time.max() <= bookings.moment("2016-01-01")


def test_bookings_have_no_feature_that_is_known_later(bookings, data_set):
    names = set(bookings.feature_names)
    later = {
        "reservation_status", "reservation_status_date", "is_canceled", "assigned_room_type",
        "booking_changes", "days_in_waiting_list", *LATE_BOOKING_COLUMNS,
    }  # fmt: skip
    assert not names & later
    # No single feature separates the classes, as those of the late columns do.
    label = bookings.label()
    for name, values in bookings.frame().to_dict().items():
        rates = (
            pl.DataFrame({"v": values, "y": label})
            .group_by("v")
            .agg(pl.len(), pl.col("y").mean())
            .filter(pl.col("len") > 3000)
        )
        if name not in ("previous_cancellations", "adr"):
            assert rates["y"].max() is None or 0.01 < rates["y"].min(), name
            assert rates["y"].max() is None or rates["y"].max() < 0.99, name
    more = hotel_bookings(data_set("hotel_bookings"), late_columns=["deposit_type"])
    assert "deposit_type" in more.feature_names and len(more) == len(bookings)
    with pytest.raises(ParameterError, match="not among the late columns"):
        hotel_bookings(data_set("hotel_bookings"), late_columns=["reservation_status"])


def test_coupons(data_set):
    log = completejourney(data_set("completejourney"))
    delay = log.delay()
    redeemed = np.isfinite(delay)
    assert len(log) == 6_589 and redeemed.sum() == 792 and np.median(delay[redeemed]) == 13
    assert (delay[redeemed] > 7).mean() == pytest.approx(0.71, abs=0.005)
    assert (delay[redeemed] > 28).mean() == pytest.approx(0.17, abs=0.005)
    assert delay[redeemed].max() == 65 and log.count().sum() == 2102
    assert not log.notes and log.kinds == ("conversion", "purchase")
    assert log.label("purchase").mean() > 0.3
    first = log.frame()["past_campaigns"].to_numpy() == 0
    assert (log.frame()["past_redemptions"].to_numpy()[first] == 0).mean() > 0.99


def test_tables(data_set, monkeypatch, data_root):
    people = adult(data_set("adult_census"))
    assert people.shape == (48_842, 16) and people["income"].mean() == pytest.approx(
        0.2393, abs=1e-4
    )
    assert adult(data_set("adult_census"), "test").height == 16_281
    assert not any("?" in people[c].unique().to_list() for c in ("workclass", "occupation"))
    with pytest.raises(ParameterError, match="'valid'"):
        adult(data_set("adult_census"), "valid")
    ratings = movielens_100k(data_set("movielens_100k"))
    assert ratings.shape == (100_000, 27) and ratings["rating"].mean() == pytest.approx(3.52986)
    assert ratings.null_count().sum_horizontal()[0] == 0 and ratings["timestamp"].is_sorted()
    assert ratings["Drama"].sum() == 39_895 and ratings["user_id"].n_unique() == 943
    monkeypatch.setenv("FORETELL_DATA", str(data_root))
    assert registry.load("starbucks").now == 714
    forms = {n: e.form for n, e in registry.known().items() if e.loader}
    assert forms["hotel_bookings"] == "events" and forms["m4"] == "panel"
    assert forms["adult_census"] == forms["movielens_100k"] == "table"
