from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.data import registry
from foretell.data.public import favorita_full, m3, m5, orange_juice, rossmann, uci_electricity
from foretell.data.public.competitions import HIERARCHIES
from foretell.errors import DataError, ParameterError

HERE = [
    ("walmart", {}, 2936, "W-FRI"),
    ("favorita", {}, 6048, "W-TUE"),
    ("m4", {}, 414, "integer"),
    ("m4", {"part": "weekly"}, 359, "integer"),
    ("m3", {"part": "quarterly"}, 756, "integer"),
    ("tourism", {"part": "yearly"}, 518, "integer"),
    ("tourism_australia_quarterly", {}, 304, "QS"),
    ("orange_juice", {}, 913, "W-THU"),
    ("exchange_rate", {}, 8, "integer"),
    ("pedestrian", {}, 4, "h"),
    ("vic_elec", {}, 1, "30min"),
    ("ett", {"part": "ETTh2"}, 1, "h"),
    *[
        ("hierarchical_benchmarks", {"name": name}, count, HIERARCHIES[name])
        for name, count in (
            ("labour", 32), ("tourism", 56), ("tourismlarge", 304), ("traffic", 200), ("wiki2", 150)
        )
    ],
]  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "arguments", "series", "alias"), HERE)
def test_every_demand_set_is_read(data_root, monkeypatch, name, arguments, series, alias):
    monkeypatch.setenv("FORETELL_DATA", str(data_root))
    registry.path(name)
    panel = registry.load(name, **arguments)
    assert len(panel) == series and panel.frequency.alias == alias
    panel.require_known(0)
    assert np.isfinite(np.nanmean(panel.target))


@pytest.mark.real_data
def test_orange_juice_sells_more_when_it_is_cheap(data_set):
    panel = orange_juice(data_set("orange_juice_dominicks"))
    slopes = []
    for i in range(0, len(panel), 20):
        price = panel.known["price"][panel.known_begins[i] :][: panel.lengths[i]]
        sales = panel.series(i)
        seen = ~np.isnan(sales)
        slopes.append(np.polyfit(np.log(price[seen]), np.log(sales[seen]), 1)[0])
    assert -5 < np.median(slopes) < -1.5


@pytest.mark.real_data
def test_training_and_test_parts_are_joined_in_order(data_set):
    folder = data_set("m3_competition")
    panel = m3(folder, "yearly")
    raw = pl.read_parquet(folder / "m3_values.parquet").filter(pl.col("series") == "N0001")
    expected = [
        *raw.filter(pl.col("part") == "train")["y"],
        *raw.filter(pl.col("part") == "test")["y"],
    ]
    np.testing.assert_allclose(panel.series(0), expected, rtol=1e-6)
    with pytest.raises(ParameterError, match="known are monthly"):
        m3(folder, "weekly")


# ------------------------------------------------------------------ sets a user brings


def test_m5(tmp_path):
    days = 20
    dates = np.datetime64("2011-01-29") + np.arange(days + 5)
    week = 11101 + (np.arange(days + 5) // 7)
    pl.DataFrame(
        {
            "date": dates.astype(str),
            "wm_yr_wk": week,
            "d": [f"d_{i + 1}" for i in range(days + 5)],
            "event_name_1": ["SuperBowl" if i == 8 else None for i in range(days + 5)],
            "event_type_1": ["Sporting" if i == 8 else None for i in range(days + 5)],
            "event_name_2": [None] * (days + 5),
            "event_type_2": pl.Series([None] * (days + 5), dtype=pl.String),
            "snap_CA": [int(i % 10 == 0) for i in range(days + 5)],
            "snap_TX": [0] * (days + 5),
        }
    ).write_csv(tmp_path / "calendar.csv")
    sales = {
        "id": ["FOODS_1_CA_1_evaluation", "FOODS_2_TX_1_evaluation"],
        "item_id": ["FOODS_1", "FOODS_2"],
        "dept_id": ["FOODS", "FOODS"],
        "cat_id": ["FOODS", "FOODS"],
        "store_id": ["CA_1", "TX_1"],
        "state_id": ["CA", "TX"],
        **{f"d_{i + 1}": [i, 0 if i < 7 else i] for i in range(days)},
    }
    pl.DataFrame(sales).write_csv(tmp_path / "sales_train_evaluation.csv")
    pl.DataFrame(
        {
            "store_id": ["CA_1"] * 4 + ["TX_1"] * 3,
            "item_id": ["FOODS_1"] * 4 + ["FOODS_2"] * 3,
            "wm_yr_wk": [11101, 11102, 11103, 11104, 11102, 11103, 11104],
            "sell_price": [1.0, 1.5, 2.0, 2.0, 3.0, 3.0, 3.5],
        }
    ).write_csv(tmp_path / "sell_prices.csv")
    panel = m5(tmp_path)
    panel.require_known(5)
    assert panel.lengths.tolist() == [20, 13] and panel.known_lengths.tolist() == [25, 18]
    np.testing.assert_array_equal(panel.series(1), np.arange(7, 20))
    np.testing.assert_array_equal(panel.known["price"][:8], [1, 1, 1, 1, 1, 1, 1, 1.5])
    assert panel.known["sporting"][8] == 1 and panel.known["sporting"].sum() == 2
    assert panel.known["snap"][[0, 10, 20]].tolist() == [1, 1, 1]
    assert list(m5(tmp_path, stores=["TX_1"]).ids) == ["FOODS_2_TX_1"]
    with pytest.raises(DataError, match="no series is left"):
        m5(tmp_path, stores=["NY_1"])


def test_rossmann(tmp_path):
    (tmp_path / "train.csv").write_text(
        '"Store","DayOfWeek","Date","Sales","Customers","Open","Promo","StateHoliday","SchoolHoliday"\n'
        '1,5,2015-07-31,5263,555,1,1,"0","1"\n1,4,2015-07-30,5020,546,1,1,"0","1"\n'
        '1,3,2015-07-29,0,0,0,1,"a","1"\n2,5,2015-07-31,6064,625,1,1,0,1\n2,4,2015-07-30,1,1,1,1,c,0\n'
    )
    (tmp_path / "store.csv").write_text(
        "Store,StoreType,Assortment,CompetitionDistance\n1,c,a,1270\n2,a,a,\n"
    )
    panel = rossmann(tmp_path)
    assert panel.series(0).tolist() == [0, 5020, 5263]
    assert panel.known["public_holiday"][:3].tolist() == [1, 0, 0]
    assert panel.known["christmas"].sum() == 1
    assert panel.static_categorical["StoreType"].values == ["c", "a"]


def test_uci_electricity(tmp_path):
    stamps = np.datetime64("2012-01-01T00:15") + np.timedelta64(15, "m") * np.arange(12)
    lines = ['"";"MT_001";"MT_002"']
    for i, stamp in enumerate(stamps):
        lines.append(f'"{str(stamp).replace("T", " ")}:00";{i},5;{0 if i < 8 else 4}')
    (tmp_path / "LD2011_2014.txt").write_text("\n".join(lines))
    panel = uci_electricity(tmp_path)
    assert panel.frequency.alias == "h" and panel.lengths.tolist() == [3, 1]
    np.testing.assert_allclose(panel.series(0), [2.0, 6.0, 10.0])
    np.testing.assert_allclose(panel.series(1), [4.0])
    assert str(panel.frequency.time(panel.starts[1:])[0])[:16] == "2012-01-01T02:00"


def test_favorita_full(tmp_path):
    (tmp_path / "train.csv").write_text(
        "id,date,store_nbr,item_nbr,unit_sales,onpromotion\n"
        "0,2016-01-01,1,100,7.0,\n1,2016-01-04,1,100,-2.5,True\n2,2016-01-02,2,100,3.0,False\n"
    )
    (tmp_path / "items.csv").write_text("item_nbr,family,class,perishable\n100,DAIRY,2000,1\n")
    (tmp_path / "stores.csv").write_text(
        "store_nbr,city,state,type,cluster\n1,Quito,P,D,13\n2,Quito,P,A,1\n"
    )
    panel = favorita_full(tmp_path)
    assert panel.series(0).tolist() == [7, 0, 0, -2.5]
    assert panel.known["onpromotion"][:4].tolist() == [0, 0, 0, 1]
    assert {n.kind: n.count for n in panel.notes}["absent_is_zero"] == 2
    assert len(favorita_full(tmp_path, stores=[2])) == 1


@pytest.mark.parametrize("loader", [m5, rossmann, uci_electricity, favorita_full])
def test_missing_files_are_named(loader, tmp_path):
    with pytest.raises(DataError, match="the file is missing") as caught:
        loader(tmp_path)
    assert caught.value.file.startswith(str(tmp_path))
