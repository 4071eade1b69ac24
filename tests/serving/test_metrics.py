"""What is counted of units, and that a feed's own words stay out of it."""

from __future__ import annotations

from foretell.data.clinical.hl7.writer import Result, result_message, visit_message
from foretell.serving.config import read_config
from foretell.serving.events import action
from foretell.serving.ingest.watch import ClockSkews, Sender, Silences
from foretell.serving.metrics import Metrics
from foretell.serving.worker import Worker
from foretell.serving.worker.ticks import send_ticks

from .test_fold import T0, delivery, make_fold


def test_scores_alarms_and_silences_are_told_by_unit(store):
    config = read_config({"sites": {"H": {"units": ["MICU", "SICU"]}}})
    metrics = Metrics({name: site.units for name, site in config.sites.items()})
    worker = Worker(store, make_fold(), name="w", ttl=3600, watcher=metrics)
    worker.keep_leases(now=True)

    def work() -> None:
        while worker.work():
            pass

    sick = [Result("8867-4", 135.0, "/min"), Result("9279-1", 30.0, "/min")]
    well = [Result("8867-4", 70.0, "/min")]
    # What stands in a feed's field may be anybody's name.
    places = {"P1": ("MICU", sick), "P2": ("Miller^Ann", well), "P3": ("", sick)}
    for name, (unit, results) in places.items():
        store.append([
            delivery(visit_message("H", name, "A01", time=T0, control=f"{name}a", visit=name,
                                   unit=unit, admitted=T0)),
            delivery(result_message("H", name, results, time=T0 + 60, control=f"{name}r",
                                    visit=name)),
        ])  # fmt: skip
    work()
    send_ticks(store, T0 + 3600)
    work()
    told = {"action": "suppress", "hours": 4, "reason": "palliative care", "by": "dr"}
    store.append_events([action("H", "P1", told, T0 + 3700, b"k" * 16)])
    work()
    send_ticks(store, T0 + 7200)
    work()
    page = metrics.text(store).decode()
    lines = set(page.splitlines())
    for line in (
        'foretell_unit_scores_total{site="H",status="ok",unit="MICU"} 2.0',
        'foretell_unit_scores_total{site="H",status="ok",unit="other"} 2.0',
        'foretell_unit_alarms_total{site="H",tier="urgent",unit="MICU"} 1.0',
        'foretell_unit_alarms_total{site="H",tier="urgent",unit="unknown"} 1.0',
        'foretell_stays_quiet{site="H",unit="MICU",why="suppressed"} 1.0',
        'foretell_stays_quiet{site="H",unit="unknown",why="snoozed"} 1.0',
    ):
        assert line in lines, line
    assert "Miller" not in page and "P1" not in page
    # Time comes from outside: there is no clock to be behind of.
    assert 'foretell_watermark_behind_tick_seconds{site="H"} 7140.0' in lines
    assert "foretell_watermark_lag_seconds{" not in page
    told = {"action": "resume", "by": "dr"}
    store.append_events([action("H", "P1", told, T0 + 7300, b"l" * 16)])
    work()
    metrics.standing(store)
    assert 'why="suppressed"' not in metrics.text(store).decode()


def test_stays_are_counted_by_site_where_sites_are_configured(store):
    metrics, unknown = Metrics({"A": (), "B": (), "C": ()}), Metrics()
    worker = Worker(store, make_fold(), name="w", ttl=3600)
    worker.keep_leases(now=True)
    for site, name in (("A", "P1"), ("A", "P2"), ("B", "P3"), ("Miller^Ann", "P4")):
        store.append([
            delivery(visit_message(site, name, "A01", time=T0, control=f"{name}a", visit=name,
                                   admitted=T0)),
        ])  # fmt: skip
    while worker.work():
        pass
    lines = metrics.text(store).decode().splitlines()
    found = {n for n in lines if n.startswith("foretell_stays{")}
    wanted = {"A": 2, "B": 1, "C": 0, "other": 1}
    assert found == {f'foretell_stays{{site="{s}"}} {n}.0' for s, n in wanted.items()}
    assert 'foretell_recompute_owed{site="A"} 0.0' in lines
    # Where none is configured what a feed calls itself is no label, either.
    lines = unknown.text(store).decode().splitlines()
    assert 'foretell_stays{site="other"} 4.0' in lines
    assert sum(n.startswith("foretell_stays") for n in lines) == 1
    assert store.stays_by_site()["B"] == (1, 0)
    told = {"A": (2, 1), "B": (0, 2), "Miller^Ann": (1, 3), "Smith^Bob": (0, 1)}
    store.stays_by_site = lambda: told
    lines = metrics.text(store).decode().splitlines()
    assert not [n for n in lines if n.startswith(("foretell_site_stays", "foretell_site_rec"))]
    for site, count in {"A": 1, "B": 2, "C": 0, "other": 4}.items():
        assert f'foretell_recompute_owed{{site="{site}"}} {count}.0' in lines
    assert 'foretell_stays{site="B"} 0.0' in lines


def test_how_old_the_news_of_a_site_are(store):
    metrics = Metrics()
    worker = Worker(store, make_fold(), name="w", ttl=3600)
    worker.keep_leases(now=True)
    heart = [Result("8867-4", 80.0, "/min")]
    # One sender is late, another one's clock is a day ahead.
    news = {("A", "P1"): 60.0, ("A", "P2"): 1800.0, ("B", "P3"): 600.0, ("C", "P4"): 90_000.0}
    for (site, name), after in news.items():
        store.append([
            delivery(visit_message(site, name, "A01", time=T0, control=f"{name}a", visit=name,
                                   admitted=T0)),
            delivery(result_message(site, name, heart, time=T0 + after, control=f"{name}r",
                                    visit=name)),
        ])  # fmt: skip
    while worker.work():
        pass
    send_ticks(store, T0 + 3600)
    while worker.work():
        pass
    lines = metrics.text(store, T0 + 4000).decode().splitlines()
    for line in (
        'foretell_watermark_lag_seconds{site="A"} 2200.0',
        'foretell_watermark_lag_seconds{site="B"} 3400.0',
        'foretell_watermark_behind_tick_seconds{site="A"} 1800.0',
        'foretell_watermark_behind_tick_seconds{site="B"} 3000.0',
    ):
        assert line in lines, line
    assert not [n for n in lines if "watermark" in n and 'site="C"' in n]
    parts = [n for n in lines if n.startswith("foretell_partition_watermark_lag_seconds{")]
    assert 1 <= len(parts) <= 3 and {float(n.split()[1]) for n in parts} <= {2200, 3400, 3940}


def test_what_senders_call_themselves_is_no_label(store):
    metrics, skews = Metrics({"A": (), "B": ()}), ClockSkews()
    # Of A one is ahead and one far behind; the others are of no site that is configured.
    ahead = {("A", "LAB-1"): 20.0, ("A", "LAB-2"): -700.0, ("B", "LAB-3"): 5.0}
    ahead |= {(f"Miller^Ann{k}", f"19450607 {k}"): float(k) for k in range(300)}
    for (site, name), seconds in ahead.items():
        for _ in range(9):
            skews.heard(Sender(site, "hl7", name), T0 + seconds, T0)
    metrics.heard(skews, Silences({}), T0)
    page = metrics.text(store).decode()
    lines = [n for n in page.splitlines() if n.startswith("foretell_clock_skew_seconds{")]
    told = {"A": -700.0, "B": 5.0, "other": 299.0}
    assert sorted(lines) == [
        f'foretell_clock_skew_seconds{{door="hl7",site="{s}"}} {a}' for s, a in told.items()
    ]
    assert not any(word in page for word in ("Miller", "19450607", "LAB"))
    # Who can be asked for knows each of them.
    assert skews.told()[Sender("A", "hl7", "LAB-2")].ahead == -700
