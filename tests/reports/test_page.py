"""The page in a real browser: it asks for nothing, and mouse and keyboard do what they promise."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_run import DOGS, METHODS, write_run
from study_answers import rows

from dbbench.reports import write_report

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with a user study of 80 pairs, in which 60 go to DreamBooth."""
    folder = tmp_path_factory.mktemp("page")
    pairs = [f"p{pair} {'left' if pair < 60 else 'right'}" for pair in range(80)]
    answers = [f"r{rater} {pair}" for pair in pairs for rater in range(3)]
    rows(*answers, methods=METHODS).to_csv(folder / "answers.csv", index=False)
    run = write_run(folder / "out", subjects=DOGS[:3], drift=2, spread=0.03)
    return write_report(run, studies=[folder / "answers.csv"])


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    if not Path(CHROMIUM).is_file():
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        # A container has no user namespaces to put the sandbox in; the page is our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: sync_api.Browser, page_file: Path) -> Iterator[sync_api.Page]:
    """The report, opened from disk; whatever it asks for, and whatever goes wrong, is kept."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)  # nothing here is timed; a busy machine may be slow
    page.asked, page.problems = [], []  # type: ignore[attr-defined]
    page.on("request", lambda request: page.asked.append(request.url))
    # A picture that is still on its way when the page is left counts as aborted.
    page.on(
        "requestfailed",
        lambda request: (
            page.problems.append(request.url) if request.failure != "net::ERR_ABORTED" else None
        ),
    )
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.goto(page_file.as_uri())
    yield page
    assert page.problems == []
    context.close()


def choose(page: sync_api.Page, name: str) -> str:
    return str(page.locator(f"#pick-{name} option:checked").inner_text())


def test_no_request_leaves_the_folder(page, page_file):
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_load_state("networkidle")
    folder = page_file.parent.as_uri()
    assert len(page.asked) > 10
    assert [url for url in page.asked if not url.startswith((folder, "data:"))] == []


def test_pictures_are_fetched_only_when_they_are_looked_at(page):
    sheets = {url for url in page.asked if "/samples/" in url}
    assert all("--dog." in url for url in sheets)


def test_the_picker_shows_references_and_every_methods_images_of_one_prompt(page):
    page.select_option("#pick-subject", "dog3")
    page.select_option("#pick-prompt", index=2)
    stage = page.locator("#stage")
    assert stage.locator(".strip").count() == 2
    assert stage.locator("img").first.get_attribute("alt") == "Reference image 1 of dog3"
    wanted = choose(page, "prompt")
    for strip in stage.locator(".strip").all():
        assert wanted in strip.get_attribute("aria-label")
        image = strip.evaluate("element => getComputedStyle(element).backgroundImage")
        assert "--dog3.jpg" in image
    assert page.url.endswith(f"#show=dog3/{page.locator('#pick-prompt').input_value()}")


def test_the_buttons_and_arrow_keys_walk_through_prompts_and_subjects(page):
    first = choose(page, "prompt")
    page.click("#next")
    assert choose(page, "prompt") != first
    page.click("#previous")
    assert choose(page, "prompt") == first
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    second = choose(page, "prompt")
    assert second != first
    page.keyboard.press("ArrowDown")
    assert choose(page, "subject") == "dog2"
    assert choose(page, "prompt") == second
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert (choose(page, "subject"), choose(page, "prompt")) == ("dog", first)


def test_everything_can_be_reached_and_sorted_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    button = page.locator("#subjects button.sort").nth(2)
    button.focus()
    page.keyboard.press("Enter")
    cells = page.locator("#subjects tbody tr td:nth-child(3)").all_inner_texts()
    assert [float(cell) for cell in cells] == sorted(map(float, cells), reverse=True)
    page.keyboard.press("Enter")
    cells = page.locator("#subjects tbody tr td:nth-child(3)").all_inner_texts()
    assert [float(cell) for cell in cells] == sorted(map(float, cells))
    head = page.locator("#subjects thead tr:last-child th").nth(2)
    assert head.get_attribute("aria-sort") == "ascending"


def test_a_link_to_subject_and_prompt_opens_them(page, page_file):
    page.goto(f"{page_file.as_uri()}#show=dog2/beach")
    page.reload()
    assert choose(page, "subject") == "dog2"
    assert page.locator("#pick-prompt").input_value() == "beach"
    page.locator(".extremes a").first.click()
    assert page.url.split("#show=")[1].startswith("dog")


def test_what_people_prefer_is_read_beside_the_published_shares_and_opened_by_keyboard(page):
    page.locator("nav").get_by_role("link", name="User study").click()
    study = page.locator("#study")
    assert study.evaluate("element => Math.abs(element.getBoundingClientRect().top) < 900")
    assert study.locator(".verdicts .reproduced").inner_text().startswith("reproduced")
    cells = study.locator(".booktabs tbody tr").first.locator("th, td").all_inner_texts()
    assert [cell.split()[0] for cell in cells] == ["DreamBooth", "75%", "68%"]
    details = study.locator("details").first
    assert not details.locator("table").is_visible()
    details.locator("summary").focus()
    page.keyboard.press("Enter")
    assert "240 answers" in details.locator(".note").inner_text()
    assert details.locator("table").is_visible()


def test_nothing_is_wider_than_a_phone(browser, page_file):
    context = browser.new_context(viewport={"width": 360, "height": 700})
    page = context.new_page()
    page.goto(page_file.as_uri())
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_dark_mode_turns_page_and_plots_dark(browser, page_file):
    colours = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(page_file.as_uri())
        colours[scheme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('.plot svg text')).fill]"
        )
        context.close()
    assert colours["light"][0] != colours["dark"][0]
    assert colours["light"][1] != colours["dark"][1]
