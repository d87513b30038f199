"""The page in a real browser: keyboard, reasons, events, phone width."""

import shutil
from pathlib import Path

import pytest

from events.journal import Journal
from tests.serving_fakes import make_runtime, make_spec
from tests.serving_server import running

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is a development dependency")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return make_runtime(tmp_path_factory.mktemp("page"), make_spec(eligibility={"min_pool": 5}))


@pytest.fixture(scope="module")
def url(runtime):
    with running(runtime) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as starter:
        has_own = Path(starter.chromium.executable_path).exists()
        if CHROMIUM is None and not has_own:
            pytest.skip("no Chromium on this machine")
        browser = starter.chromium.launch(executable_path=None if has_own else CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.problems, page.outside = [], []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else page.outside.append(request.url))
    yield page
    assert page.problems == []
    assert page.outside == []
    page.close()


def open_feed(page, url, user):
    page.goto(f"{url}/?user={user}")
    page.wait_for_selector(".card")


def events_of(runtime, user):
    with Journal(runtime.workspace.journal) as journal:
        return [event for _, event in journal.since(0) if event.user_id == user]


def wait_for(page, condition):
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError("waited in vain")


def test_feed_shows_posts_with_sources_value_bars_and_reasons(page, url):
    open_feed(page, url, "1")
    first = page.locator(".card").first
    assert first.locator(".sources span").count() >= 1
    assert first.locator(".bar").count() == 4
    first.locator(".why").click()
    assert first.locator(".reasons").is_visible()
    assert "Predicted probability" in first.locator(".reasons").inner_text()
    assert page.locator("#serving").inner_text().count("explore-") == 1


def test_the_funnel_of_a_page_says_what_each_stage_kept_and_why(page, url):
    open_feed(page, url, "1")
    page.locator("#funnel-open").click()
    page.wait_for_selector("#funnel .stages li")
    shown = page.locator("#funnel").inner_text()
    for words in ("second stage", "first stage", "rerank", "ms"):
        assert words in shown
    assert page.locator("#funnel .removed span").count() >= 1
    label = page.locator("#funnel .stage-bar").last.get_attribute("aria-label")
    assert label.startswith("rerank: ")
    assert label.endswith(" kept")
    page.keyboard.press("Escape")
    assert not page.locator("#funnel").is_visible()


def test_a_second_spec_stands_beside_the_first(browser, tmp_path):
    specs = [
        make_spec(eligibility={"min_pool": 5}),
        make_spec(eligibility={"min_pool": 5}, surface="reels", rerank={"creator_window": 0}),
    ]
    with running(make_runtime(tmp_path, specs)) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        open_feed(page, url, "1")
        page.locator("#versus").select_option("reels")
        page.wait_for_selector("#versus-column .card")
        assert "posts are in both" in page.locator("#versus-column").inner_text()
        assert page.locator("#versus-column .agreement").count() == page.locator("#versus-column .card").count()
        assert page.locator("#versus-column .actions").count() == 0
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("#versus").select_option("")
        assert not page.locator("#versus-column").is_visible()
        page.close()


def test_two_users_see_different_feeds(page, url):
    def shown():
        return page.eval_on_selector_all(".card", "cards => cards.slice(0, 10).map(card => card.dataset.post)")

    open_feed(page, url, "1")
    mine = shown()
    page.fill("#user", "5")
    page.keyboard.press("Enter")
    wait_for(page, lambda: len(shown()) >= 10 and shown() != mine)
    assert "user=5" in page.url


def test_keys_move_like_follow_open_and_hide_and_all_of_it_is_logged(page, url, runtime):
    open_feed(page, url, "13")
    cards = page.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.post)")
    for key in ("j", "l", "f", "Enter", "j", "h"):
        page.keyboard.press(key)
    wait_for(
        page, lambda: {e.kind for e in events_of(runtime, 13)} >= {"impression", "like", "follow", "click", "hide"}
    )
    kinds = {(e.kind, e.post_id) for e in events_of(runtime, 13)}
    assert {
        ("like", int(cards[0])),
        ("follow", int(cards[0])),
        ("click", int(cards[0])),
        ("hide", int(cards[1])),
    } <= kinds
    assert page.locator(f'.card[data-post="{cards[1]}"]').count() == 0
    assert page.evaluate("document.activeElement.dataset.post") == cards[2]
    liked = next(e for e in events_of(runtime, 13) if e.kind == "like")
    seen = next(e for e in events_of(runtime, 13) if e.kind == "impression" and e.post_id == liked.post_id)
    assert liked.impression_id == seen.event_id
    assert seen.spec_version == runtime.spec.version


def test_blocking_a_creator_removes_their_posts(page, url, runtime):
    open_feed(page, url, "15")
    page.keyboard.press("j")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    creator = label.rsplit(" ", 1)[1]
    page.keyboard.press("b")
    wait_for(page, lambda: any(e.kind == "block" for e in events_of(runtime, 15)))
    assert page.locator(".card").evaluate_all(
        "(cards, name) => cards.every(card => !card.getAttribute('aria-label').endsWith(' ' + name))", creator
    )


def test_scrolling_loads_more_without_repeats_and_logs_what_was_seen(page, url, runtime):
    open_feed(page, url, "17")
    for _ in range(12):
        page.mouse.wheel(0, 2500)
        page.wait_for_timeout(120)
    wait_for(page, lambda: page.locator(".card").count() > 24)
    ids = page.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.post)")
    assert len(ids) == len(set(ids))
    page.wait_for_timeout(1200)
    wait_for(page, lambda: any(e.kind == "impression" for e in events_of(runtime, 17)))


def test_an_unknown_user_gets_a_feed(page, url):
    open_feed(page, url, "someone-new")
    assert page.locator(".card").count() >= 10


def test_a_phone_needs_no_sideways_scrolling(browser, url):
    page = browser.new_page(viewport={"width": 360, "height": 740})
    open_feed(page, url, "1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    heights = page.locator(".actions button").evaluate_all(
        "buttons => buttons.map(b => b.getBoundingClientRect().height)"
    )
    assert min(heights) >= 34
    page.close()


def test_every_control_has_a_name(page, url):
    open_feed(page, url, "1")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, article')].filter(
            e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"""
    )
    assert nameless == 0
