"""Public data sets with late labels as event logs, and two plain tables for decisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from foretell.data.events import EventLog
from foretell.errors import ParameterError

LATE_BOOKING_COLUMNS = {
    "country": "corrected at check-in: a guest who never came is often left as Portuguese",
    "deposit_type": "derived from payments up to arrival or cancellation",
    "required_car_parking_spaces": "never above 0 for a cancelled booking",
    "total_of_special_requests": "requests are added up to arrival",
}
"""Columns of the hotel bookings that hold what was known later, and why they are left out."""

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_MIN_AGENT = 100  # bookings below which an agent is one of "other"


def starbucks(
    folder: Path,
    *,
    require_view: bool = True,
    matching: Literal["latest", "every"] = "latest",
) -> EventLog:
    """61,042 offers in six waves: viewed, then redeemed, within days; times in hours.

    An entity is an offer that a customer received and can redeem; purely informational offers are
    left out. Engagement ``view`` is a first view while the offer is valid (5, 7 or 10 days, its
    deadline), the conversion the first completion while it is valid, if the view is not later. The
    log ends at hour 714, so that offers of the last waves are not all matured.

    Features, all known when the offer is received: age (missing where it is 118), income, gender,
    days of membership, which offer it is (0/1), and log(1 + transactions a week),
    log(1 + spend a week) before it.

    Args:
        folder: holds ``transcript.parquet``, ``profile.parquet`` and ``portfolio.parquet``.
        require_view: whether a completion without a view before it is no conversion.
        matching: what happens where a customer holds the same offer twice at once:
            ``"latest"``: a view or completion belongs to the latest receipt that is open and has
            none yet; ``"every"``: it counts for each open receipt (rates about .005 higher).
    """
    if matching not in ("latest", "every"):
        raise ParameterError(f"matching must be 'latest' or 'every', not {matching!r}")
    events = pl.read_parquet(folder / "transcript.parquet").with_columns(
        pl.col("time").cast(pl.Float64)
    )
    offers = _offers(folder)
    received = (
        events.filter(pl.col("event") == "offer received")
        .select("person", "offer_id", "time")
        .join(offers, on="offer_id", how="inner")
        .with_columns(
            pl.format("{}/{}", "person", pl.col("time").cast(pl.Int64)).alias("id"),
            (pl.col("time") + pl.col("validity")).alias("deadline"),
        )
        .sort("time", "id")
    )
    outcomes = _matched(events, received, matching)
    views = outcomes.filter(pl.col("event") == "offer viewed")
    done = outcomes.filter(pl.col("event") == "offer completed")
    done = done.group_by("id").agg(pl.col("time").min())
    if require_view:
        first = views.group_by("id").agg(pl.col("time").min().alias("viewed"))
        done = done.join(first, on="id").filter(pl.col("viewed") <= pl.col("time"))
    kinds = [(views, "view"), (done, "conversion")]
    table = pl.concat(
        t.select("id", pl.lit(kind).alias("kind"), pl.col("time").alias("t_outcome"))
        for t, kind in kinds
    )
    entities = _with_past(events, received.join(_customers(folder), on="person", how="left"))
    log = EventLog.from_frames(
        entities.drop("person", "offer_id", "validity"),
        table,
        time="time",
        deadline="deadline",
        attribution_window=float(offers["validity"].to_numpy().max()),
        unit="h",
        source="starbucks_offers/transcript.parquet",
    )
    return log.until(float(events["time"].to_numpy().max()))


def hotel_bookings(folder: Path, *, late_columns: Sequence[str] = ()) -> EventLog:
    """119,390 hotel bookings; the conversion is a cancellation (or a no-show); times in days.

    An entity enters when it is booked, ``lead_time`` days before arrival. A cancellation becomes
    known on its day; a booking that is kept becomes known on the day of arrival, after which nobody
    cancels: arrival is the deadline of the entity, known when it is booked. The window of the log
    is the longest lead time (737 days), so that the deadline alone decides.

    Only bookings that arrive from July 2015 to August 2017 are in the source: those made long
    before a date of arrival are complete, the last months before August 2017 hold few bookings of
    long lead times. The source publishes no booking ids and holds exact duplicates, all kept; ids
    are row numbers.

    Features are those that are known at booking. Left out are the reservation status, the
    assigned room, changes and waiting days, and :data:`LATE_BOOKING_COLUMNS`. Agents with fewer
    than 100 bookings are one category.

    Args:
        folder: holds ``hotel_bookings.parquet``.
        late_columns: those of :data:`LATE_BOOKING_COLUMNS` to add all the same, for comparison
            with work that uses them.
    """
    unknown = [c for c in late_columns if c not in LATE_BOOKING_COLUMNS]
    if unknown:
        raise ParameterError(
            f"{unknown} are not among the late columns {', '.join(LATE_BOOKING_COLUMNS)}"
        )
    table = pl.read_parquet(folder / "hotel_bookings.parquet").with_row_index("id")
    months = {name: i for i, name in enumerate(_MONTHS, start=1)}
    table = table.with_columns(
        pl.col("id").cast(pl.Int64),
        pl.date(
            "arrival_date_year",
            pl.col("arrival_date_month").replace_strict(months, return_dtype=pl.Int32),
            "arrival_date_day_of_month",
        ).alias("arrival"),
    ).with_columns(pl.col("arrival").dt.offset_by(pl.format("-{}d", "lead_time")).alias("booked"))
    agents = pl.col("agent").cast(pl.String)
    entities = table.select(
        "id",
        "booked",
        "arrival",
        "hotel",
        "lead_time",
        pl.col("arrival").dt.month().alias("arrival_month"),
        pl.col("arrival").dt.week().alias("arrival_week"),
        pl.col("arrival").dt.weekday().alias("arrival_weekday"),
        pl.col("booked").dt.weekday().alias("booking_weekday"),
        "stays_in_weekend_nights",
        "stays_in_week_nights",
        "adults",
        "children",
        "babies",
        "meal",
        "market_segment",
        "distribution_channel",
        "is_repeated_guest",
        "previous_cancellations",
        "previous_bookings_not_canceled",
        "reserved_room_type",
        "customer_type",
        "adr",
        pl.when(pl.col("agent").is_null() | (pl.len().over("agent") >= _MIN_AGENT))
        .then(agents)
        .otherwise(pl.lit("other"))
        .alias("agent"),
        pl.col("company").is_not_null().alias("has_company"),
        *late_columns,
    )
    outcomes = table.filter(pl.col("is_canceled") == 1).select(
        "id", pl.col("reservation_status_date").alias("t_outcome")
    )
    return EventLog.from_frames(
        entities,
        outcomes,
        time="booked",
        deadline="arrival",
        attribution_window=float(table["lead_time"].to_numpy().max()),
        unit="d",
        source="hotel_bookings/hotel_bookings.parquet",
    )


def completejourney(folder: Path) -> EventLog:
    """6,589 households in coupon campaigns; conversion is a redemption; times in days.

    An entity is a campaign that a household got, from its start to its end (the deadline).
    Engagement ``purchase`` is a purchase of a product that one of the campaign's coupons covers,
    as far as the 5 % sample of transactions shows it: it is no strict funnel. Redemptions are
    known up to the end of 2017. 792 redeeming pairs are too few to rank methods by.

    Features: campaign type and length, number of coupons, campaigns and redeemed coupons before,
    log(1 + sampled spend) before, and demographics, which 801 households gave.

    Args:
        folder: holds the set's Parquet files.
    """
    campaigns = pl.read_parquet(folder / "campaign_descriptions.parquet")
    coupons = pl.read_parquet(folder / "coupons.parquet")
    redeemed = pl.read_parquet(folder / "coupon_redemptions.parquet")
    sales = pl.read_parquet(folder / "transactions_sample.parquet").select(
        "household_id", "product_id", "sales_value", pl.col("transaction_timestamp").alias("at")
    )
    pair = ["household_id", "campaign_id"]
    name = pl.format("{}/{}", *pair).alias("id")
    given = (
        pl.read_parquet(folder / "campaigns.parquet")
        .join(campaigns, on="campaign_id")
        .join(
            coupons.group_by("campaign_id").agg(pl.col("coupon_upc").n_unique().alias("coupons")),
            on="campaign_id",
            how="left",
        )
        .with_columns(
            name, (pl.col("end_date") - pl.col("start_date")).dt.total_days().alias("days")
        )
        .sort("start_date", "id")
        .with_columns(pl.cum_count("id").over("household_id").alias("past_campaigns") - 1)
    )
    start = pl.col("start_date").cast(pl.Datetime("us"))
    before = given.select("id", "household_id", start.alias("start"))
    past = (
        before.join(redeemed, on="household_id")
        .filter(pl.col("redemption_date").cast(pl.Datetime("us")) < pl.col("start"))
        .group_by("id")
        .agg(pl.len().alias("past_redemptions"))
    )
    spend = (
        before.join(sales, on="household_id")
        .filter(pl.col("at") < pl.col("start"))
        .group_by("id")
        .agg(pl.col("sales_value").sum().log1p().alias("past_spend"))
    )
    entities = (
        given.join(past, on="id", how="left")
        .join(spend, on="id", how="left")
        .join(pl.read_parquet(folder / "demographics.parquet"), on="household_id", how="left")
        .with_columns(pl.col("past_redemptions").fill_null(0), pl.col("past_spend").fill_null(0.0))
        .drop("household_id", "campaign_id")
    )
    # The last day of a campaign counts whole.
    entities = entities.with_columns(
        pl.col("end_date").cast(pl.Datetime("us")).dt.offset_by("1d").alias("end_date")
    )
    bought = (
        sales.join(coupons.select("campaign_id", "product_id").unique(), on="product_id")
        .join(given.select(*pair, "id", start.alias("start"), "end_date"), on=pair)
        .filter(pl.col("at").is_between("start", pl.col("end_date").dt.offset_by("1d")))
        .select("id", pl.lit("purchase").alias("kind"), pl.col("at").alias("t_outcome"))
    )
    outcomes = redeemed.select(
        name,
        pl.lit("conversion").alias("kind"),
        pl.col("redemption_date").cast(pl.Datetime("us")).alias("t_outcome"),
    )
    log = EventLog.from_frames(
        entities,
        pl.concat([outcomes, bought]),
        time="start_date",
        deadline="end_date",
        attribution_window=float(given["days"].to_numpy().max() + 1),
        unit="d",
        source="completejourney/campaigns.parquet",
    )
    return log.until("2018-01-01")


def adult(folder: Path, part: Literal["all", "train", "test"] = "all") -> pl.DataFrame:
    """48,842 people of the 1994 US census as a table; ``income`` is 1 above 50,000 USD.

    Args:
        folder: holds ``train.parquet`` and ``test.parquet``.
        part: of the official split; the column ``part`` names it.
    """
    parts = ["train", "test"] if part == "all" else [part]
    if not set(parts) <= {"train", "test"}:
        raise ParameterError(f"part must be 'all', 'train' or 'test', not {part!r}")
    table = pl.concat(
        pl.read_parquet(folder / f"{p}.parquet").with_columns(pl.lit(p).alias("part"))
        for p in parts
    )
    text = [c for c, t in table.schema.items() if t == pl.String]
    return table.with_columns(
        pl.col(text).str.strip_chars().replace("?", None),
    ).with_columns(pl.col("income").str.starts_with(">50K").cast(pl.Int8))


def movielens_100k(folder: Path) -> pl.DataFrame:
    """100,000 ratings in order of time with the users' and films' attributes as a table.

    Columns: user_id, item_id, rating (1 to 5), timestamp (Unix seconds), fold (1 to 5), age,
    gender, occupation, and 19 genres (0/1).

    Args:
        folder: holds ``u_data.parquet``, ``u.user``, ``u.item.utf8`` and ``u.genre``.
    """
    genres = [
        line.rsplit("|", 1)[0]
        for line in (folder / "u.genre").read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    plain = {"has_header": False, "separator": "|", "quote_char": None}
    users = pl.read_csv(
        folder / "u.user",
        new_columns=["user_id", "age", "gender", "occupation", "zip"],
        schema_overrides={"column_5": pl.String},
        **plain,  # type: ignore[arg-type]
    ).drop("zip")
    items = pl.read_csv(folder / "u.item.utf8", infer_schema_length=None, **plain)  # type: ignore[arg-type]
    kept = [items.columns[0], *items.columns[-len(genres) :]]
    items = items.select(kept).rename(dict(zip(kept, ["item_id", *genres], strict=True)))
    ratings = pl.read_parquet(folder / "u_data.parquet").with_columns(
        pl.col("user_id", "item_id").cast(pl.Int64)
    )
    return (
        ratings.join(users, on="user_id", how="left", maintain_order="left")
        .join(items, on="item_id", how="left", maintain_order="left")
        .sort("timestamp", "user_id", "item_id")
    )


def _offers(folder: Path) -> pl.DataFrame:
    """Offers that can be redeemed: id, hours of validity, one 0/1 column each."""
    offers = (
        pl.read_parquet(folder / "portfolio.parquet")
        .filter(pl.col("offer_type") != "informational")
        .with_columns(
            (pl.col("duration") * 24.0).alias("validity"),
            pl.format(
                "offer_{}_{}_for_{}_in_{}d",
                "offer_type",
                "reward",
                "difficulty",
                pl.col("duration").cast(pl.Int64),
            ).alias("label"),
        )
        .sort("label", "id")
    )
    # Two offers may have the same terms and differ in their channels.
    number = pl.int_range(pl.len()).over("label")
    twice = pl.len().over("label") > 1
    offers = offers.with_columns(
        pl.when(twice)
        .then(pl.format("{}_{}", "label", number + 1))
        .otherwise("label")
        .alias("label")
    )
    return offers.select(
        pl.col("id").alias("offer_id"),
        "validity",
        *((pl.col("label") == name).cast(pl.Float64).alias(name) for name in offers["label"]),
    )


def _matched(events: pl.DataFrame, received: pl.DataFrame, matching: str) -> pl.DataFrame:
    """Views and completions with the receipts they belong to: columns id, event, time."""
    own = ["person", "offer_id"]
    later = (
        events.filter(pl.col("event").is_in(["offer viewed", "offer completed"]))
        .select(*own, "event", "time")
        .with_row_index("outcome")
    )
    opened = received.select(*own, "id", "deadline", pl.col("time").alias("received"))
    free = (
        later.join(opened, on=own)
        .filter(pl.col("time").is_between("received", "deadline"))
        .sort("time", "outcome", "received", descending=[False, False, True])
    )
    if matching == "every":
        return free.select("id", "event", "time")
    # The latest receipt that is open takes the earliest outcome; who finds it taken, e.g. because
    # one purchase completes two receipts, goes to the one before.
    parts = []
    while free.height:
        best = free.unique("outcome", keep="first", maintain_order=True)
        best = best.unique(["event", "id"], keep="first", maintain_order=True)
        parts.append(best.select("id", "event", "time"))
        free = free.join(best, on="outcome", how="anti", maintain_order="left")
        free = free.join(best, on=["event", "id"], how="anti", maintain_order="left")
    return pl.concat(parts)


def _customers(folder: Path) -> pl.DataFrame:
    profile = pl.read_parquet(folder / "profile.parquet")
    joined = pl.col("became_member_on").cast(pl.String).str.to_date("%Y%m%d")
    return profile.select(
        pl.col("id").alias("person"),
        pl.when(pl.col("age") != 118).then(pl.col("age").cast(pl.Float64)).alias("age"),
        pl.col("income").cast(pl.Float64),
        "gender",
        (joined.max() - joined).dt.total_days().alias("membership_days"),
    )


def _with_past(events: pl.DataFrame, entities: pl.DataFrame) -> pl.DataFrame:
    """Adds log rates of transactions and spend strictly before each receipt."""
    past = (
        events.filter(pl.col("event") == "transaction")
        .sort("time")
        .select(
            "person",
            "time",
            pl.cum_count("amount").over("person").alias("count"),
            pl.cum_sum("amount").over("person").alias("spend"),
        )
    )
    joined = entities.sort("time").join_asof(
        past,
        on="time",
        by="person",
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    weeks = pl.when(pl.col("time") > 0).then(pl.col("time") / 168.0).otherwise(1.0)
    return joined.with_columns(
        (pl.col("count").fill_null(0) / weeks).log1p().alias("past_transactions"),
        (pl.col("spend").fill_null(0.0) / weeks).log1p().alias("past_spend"),
    ).drop("count", "spend")
