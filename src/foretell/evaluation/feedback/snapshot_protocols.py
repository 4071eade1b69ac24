"""The studies of late labels on public data: which entities, which instants, which tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.data.events import EventLog
from foretell.errors import DataError, ParameterError
from foretell.evaluation.feedback.snapshot_study import Snapshot

OFFER_CASES = ((336.0, 48.0), (336.0, 24.0), (408.0, 48.0), (408.0, 24.0))
BOOKING_DATES = ("2016-02-01", "2016-04-01", "2016-06-01", "2016-08-01", "2016-10-01", "2016-12-01")


@dataclass(frozen=True, eq=False)
class StudyProtocol:
    """What :func:`~foretell.evaluation.feedback.snapshot_study` is given.

    Args:
        log: the entities that take part, complete.
        snapshots: instants and tests.
        clusters: (n,) who is resampled together.
        engagement: kinds before the conversion.
    """

    log: EventLog
    snapshots: tuple[Snapshot, ...]
    clusters: NDArray
    engagement: tuple[str, ...] = ()


def offers_protocol(
    log: EventLog,
    cases: Sequence[tuple[float, float]] = OFFER_CASES,
    *,
    test_wave: float = 504.0,
    history_wave: float | None = 0.0,
) -> StudyProtocol:
    """Starbucks offers: train on one wave while its labels come in, test on a later one.

    The model is trained on the offers of one wave only, a day or two after they were sent; delays
    are learned from the wave at hour 0, which has matured by then. Tested are the offers of a
    later wave with final labels. The log ends 210 h after the wave at hour 504, while offers
    are valid up to 240 h: the label is a redemption within 210 h everywhere, so that all test
    labels are final. Customers are in several waves: they are resampled as a whole.

    Args:
        log: from :func:`foretell.data.public.feedback.starbucks`.
        cases: (hour of the wave to train on, hours after it).
        test_wave: hour of the wave to test on.
        history_wave: hour of the wave that delays are learned from; None for all that has matured.

    Raises:
        DataError: the log ends before the test wave's labels.
    """
    window = min(log.window, log.now - test_wave)
    if window <= 0:
        raise DataError(f"the log ends at {log.now:g}, before the test wave {test_wave:g}")
    log = log.with_window(window)
    history = None if history_wave is None else (history_wave, history_wave + 1)
    snapshots = tuple(
        Snapshot(
            f"wave {wave:g} after {age:g} h", wave + age, (test_wave, test_wave + 1), wave, history
        )
        for wave, age in cases
    )
    customers = np.array([str(name).rpartition("/")[0] for name in log.ids], object)
    return StudyProtocol(log, snapshots, customers, ("view",))


def bookings_protocol(
    log: EventLog,
    dates: Sequence[str] = BOOKING_DATES,
    *,
    max_lead: float = 180.0,
    test_days: float = 28.0,
    first_arrival: str = "2015-07-01",
    last_arrival: str = "2017-08-31",
) -> StudyProtocol:
    """Hotel bookings: train at a date with the labels visible then, test the next four weeks.

    The source holds the bookings that *arrive* between two dates, so that neither the first nor the
    last bookings are a fair sample of those made at the time. A booking of 1 May 2015 is there only
    if it was made 61 days ahead or more; one of 1 August 2017 only if it was made at most 30 days
    ahead; lead time decides cancellations, so both ends would be biased. Hence

    * bookings are taken from the first arrival on: nobody who booked then can be missing on the
      left, whatever the lead time (>= 0);
    * the population is bookings made at most ``max_lead`` days ahead, which is known when they are
      made (four of five are), and they are taken until ``max_lead`` days before the last arrival:
      every one of them has arrived by then, so none is missing on the right and all labels are
      final.

    Each training sees every booking made up to the date; a booking is final at its arrival, when it
    is cancelled or not. Tested are the bookings of the ``test_days`` after the date. Groups book
    on one day and cancel together, so whole booking days are resampled.

    Args:
        log: from :func:`foretell.data.public.feedback.hotel_bookings`.
        dates: of training.
        max_lead: days, the longest lead time that takes part; also the window.
        test_days: length of each test.
        first_arrival: the source's.
        last_arrival: the source's.

    Raises:
        DataError: the log has no ``lead_time``.
        ParameterError: a test reaches beyond the bookings that are complete.
    """
    if "lead_time" not in log.feature_names:
        raise DataError("the log has no feature 'lead_time'", column="lead_time")
    lead = log.matrix()[:, log.feature_names.index("lead_time")]
    begin = log.moment(first_arrival)
    end = log.moment(last_arrival) - max_lead + 1
    log = log.select((lead <= max_lead) & (log.times >= begin) & (log.times < end))
    # A day more, so that a booking made max_lead days ahead still has its whole arrival day.
    log = log.with_window(max_lead + 1)
    snapshots = []
    for date in dates:
        now = log.moment(date)
        if now + 1 + test_days > end:
            raise ParameterError(f"the test after {date} reaches beyond the complete bookings")
        snapshots.append(Snapshot(str(date), now, (now + 1, now + 1 + test_days)))
    return StudyProtocol(log, tuple(snapshots), log.times.copy())


def coupons_protocol(
    log: EventLog, date: str = "2017-08-22", *, last: str = "2018-01-01"
) -> StudyProtocol:
    """Complete Journey: train in the midst of a campaign, test the households of later ones.

    Only campaigns that end within the data take part, which is known when they start. The 284
    redeeming pairs of the test are too few to rank methods: the intervals say so.

    Args:
        log: from :func:`foretell.data.public.feedback.completejourney`.
        date: of training.
        last: end of the data.
    """
    end = log.moment(last)
    log = log.select(log.deadlines <= end)
    now = log.moment(date)
    households = np.array([str(name).partition("/")[0] for name in log.ids], object)
    snapshot = Snapshot(str(date), now, (np.nextafter(now, np.inf), end))
    return StudyProtocol(log, (snapshot,), households, ("purchase",))
