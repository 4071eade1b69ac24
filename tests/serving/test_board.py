"""The live board in a browser without a screen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from foretell.data.clinical.hl7.writer import Result, result_message
from foretell.serving.reasons import REASONS
from foretell.serving.replay import MllpClient

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = "/usr/bin/chromium"
PATIENCE = 180_000


@pytest.fixture(scope="module")
def browser():
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no /usr/bin/chromium")
    with playwright.sync_playwright() as held:
        chromium = held.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE
        )
        yield chromium
        chromium.close()


def opened(browser, ward, width: int, height: int, *, touch: bool = False):
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=touch)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.problems = []
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.foreign = []
    page.on("request", lambda r: None if r.url.startswith((ward.url, "data:"))
            else page.foreign.append(r.url))  # fmt: skip
    page.goto(f"{ward.url}/board")
    page.fill("#token", "test-token")
    page.click("#enter")
    page.wait_for_selector(".row")
    return page


def done(page, action: str) -> None:
    """Clicks a button and waits until the page has heard that it is kept."""
    page.click(f"#{action}")
    page.wait_for_selector(f"#said:has-text('{action}: kept')", state="attached")


def shot(page, name: str) -> None:
    folder = os.environ.get("FORETELL_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png")


def test_a_shift_at_a_tablet(browser, ward):
    page = opened(browser, ward, 1024, 768, touch=True)
    listed = ward.client().get("/v1/patients").json()["patients"]
    rows = page.locator(".row")
    assert rows.count() == len(listed)
    # The points of a bedside rule are no percentage.
    points = ward.client().get("/v1/board").json()["points"]
    assert points["news2-1"] == 20
    for told, view in zip(page.locator(".row .risk").all_inner_texts(), listed, strict=True):
        if view["risk"] is not None:
            most = points.get(view["model"])
            wanted = f"{round(view['risk'] * most)} of {most:g}" if most else "%"
            assert wanted in told
    assert page.locator(".row .who").all_inner_texts() == [v["patient"] for v in listed]
    page.wait_for_selector("#link.on")
    # Every target is large enough for a thumb.
    for button in page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 48
    alarmed = next(v for v in listed if v["alarms"] and v["risk"] is not None)
    page.click(f".row:has(.who:text-is('{alarmed['patient']}'))")
    page.wait_for_selector("svg")
    assert page.problems == []
    assert page.locator("svg .dot").count() + page.locator("svg .gap").count() // 2 >= 9
    assert page.locator("svg .raised").count() >= 1
    assert page.locator(".drive .bar").count() >= 1
    # Nothing is silenced without a reason, and a reason is a code.
    assert page.is_disabled("#suppress") and page.is_disabled("#snooze")
    codes = [o.get_attribute("value") for o in page.locator("#reason option").all()]
    assert codes == ["", *REASONS] and page.locator("#detail input").count() == 0
    shot(page, "tablet")
    # What the header counts is marked in the list, and no longer when somebody has seen it.
    unseen = [v for v in listed if v["alarms"] and not v["acknowledged"]]
    marked = page.locator("#patients .tag:has-text('not acknowledged')")
    assert marked.count() == len(unseen) >= 1
    done(page, "acknowledge")
    page.wait_for_selector("#acknowledge:disabled")
    assert marked.count() == len(unseen) - 1
    page.select_option("#reason", "already-treated")
    done(page, "suppress")
    page.wait_for_selector("#detail .tag:has-text('suppressed'):has-text('known and treated')")
    done(page, "resume")
    page.wait_for_selector("#detail .tag:has-text('suppressed')", state="detached")
    page.select_option("#hours", "2")
    page.wait_for_selector("#snooze:disabled")
    page.select_option("#reason", "awaiting-results")
    done(page, "snooze")
    page.wait_for_selector("#detail .tag:has-text('until hour'):has-text('Results are awaited')")
    audit = ward.client().get("/v1/audit?limit=10000").json()["rows"]
    assert {"acknowledge", "suppress", "resume", "snooze"} <= {r["action"] for r in audit}
    (snoozed,) = [r for r in audit if r["action"] == "snooze"]
    assert snoozed["purpose"] == "awaiting-results" and "hours=2 until=" in snoozed["detail"]
    # Nothing came from elsewhere, nothing went wrong.
    assert page.foreign == [] and page.problems == []
    page.context.close()


def test_a_withheld_score_says_why_and_what_a_feed_sent_stays_text(browser, ward):
    page = opened(browser, ward, 1440, 900)
    evil = "<img src=x onerror=alert(1)>"
    results = [Result("8867-4", 82.0, "/min")]
    with MllpClient("127.0.0.1", ward.running.ports["mllp"]) as door:
        door.send(result_message("SIM", evil, results, time=ward.now, control="evil"))
        door.flush()
    # It shows up by itself: the feed of events tells.
    page.wait_for_selector(".row:has-text('onerror')")
    assert page.locator("#patients img").count() == 0
    listed = ward.client().get("/v1/patients").json()["patients"]
    silent = [v for v in listed if v["risk"] is None]
    if not silent:
        strange = [Result("8867-4", 200.0, "/min"), Result("8480-6", 40.0, "mm[Hg]"),
                   Result("8310-5", 33.0, "Cel"), Result("2524-7", 25.0, "mmol/L"),
                   Result("2744-1", 6.7, "[pH]"), Result("777-3", 900.0, "10*3/uL")]  # fmt: skip
        with MllpClient("127.0.0.1", ward.running.ports["mllp"]) as door:
            door.send(result_message("SIM", evil, strange, time=ward.now + 60, control="odd"))
            door.flush()
    page.wait_for_selector(".row.none")
    page.click(".row.none >> nth=0")
    page.wait_for_selector("#why")
    assert "No score" in page.inner_text("#why") and "no sign of health" in page.inner_text("#why")
    shot(page, "desktop")
    assert page.foreign == [] and page.problems == []
    page.context.close()


def test_points_of_a_bedside_rule_are_held_to_its_own_thresholds(browser, ward):
    context = browser.new_context(viewport={"width": 1024, "height": 768})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)

    told = ward.client().get("/v1/patients").json()
    told["patients"] = told["patients"][:3]
    for view, many in zip(told["patients"], (2, 6, 7), strict=True):
        view |= {"model": "news2-1", "status": "degraded", "risk": many / 20, "unit": None}
    page.route("**/v1/patients", lambda route: route.fulfill(json=told))
    page.goto(f"{ward.url}/board")
    page.fill("#token", "test-token")
    page.click("#enter")
    page.wait_for_selector(".row")
    kinds = [row.get_attribute("class").split()[1] for row in page.locator(".row").all()]
    # Six points of 20 are beyond the highest threshold of the model.
    assert ward.deployment.policy.tiers[-1].threshold < 6 / 20
    assert kinds == ["calm", "warn", "high"]
    # The page asks by itself: no answer may be under way when it is closed.
    page.unroute_all(behavior="wait")
    context.close()


def test_what_was_begun_while_an_action_was_on_its_way_stays(browser, ward):
    page = opened(browser, ward, 1024, 768)
    listed = ward.client().get("/v1/patients").json()["patients"]
    alarmed = next(v for v in listed if v["alarms"])
    page.click(f".row:has(.who:text-is('{alarmed['patient']}'))")
    page.wait_for_selector("#reason")
    sent = []
    page.route("**/actions", lambda route: sent.append(route))
    page.click("#resume")
    while not sent:
        page.wait_for_timeout(20)
    page.select_option("#reason", "already-treated")
    page.select_option("#hours", "8")
    sent[0].fulfill(json={"accepted": True})
    page.wait_for_selector("#said:has-text('resume: kept')", state="attached")
    # What is shown is made anew.
    page.evaluate("showDetail()")
    assert (page.input_value("#reason"), page.input_value("#hours")) == ("already-treated", "8")
    assert page.is_enabled("#suppress") and page.problems == []
    page.unroute_all(behavior="wait")
    page.context.close()


def test_a_telephone_shows_one_thing_at_a_time(browser, ward):
    page = opened(browser, ward, 414, 896, touch=True)
    assert not page.is_visible("#detail")
    page.click(".row >> nth=0")
    page.wait_for_selector("#detail h2")
    assert not page.is_visible("#patients")
    assert page.evaluate("document.documentElement.scrollWidth") <= 414
    shot(page, "telephone")
    page.click("#back")
    assert page.is_visible("#patients")
    page.context.close()


def test_a_wrong_token_and_the_policy_of_the_page(browser, ward):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{ward.url}/board")
    page.fill("#token", "wrong")
    page.click("#enter")
    page.wait_for_selector("#wrong:has-text('may not read')")
    page.close()
    with ward.client() as client:
        assert client.get("/", follow_redirects=False).headers["location"] == "/board"
        answer = client.get("/board")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert client.get("/board/..%2fboard.py").status_code == 404
        assert client.get("/board/__init__.py").status_code == 404
        about = client.get("/v1/board").json()
        assert [t["name"] for t in about["tiers"]] == ["advisory", "urgent"]
        rule = about["tiers_of"]["news2-1"]
        assert [t["name"] for t in rule] == ["advisory", "urgent"]
        assert [t["threshold"] for t in rule] == [0.175, 0.35]
        assert json.dumps(about)
