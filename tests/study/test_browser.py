"""The questionnaire in a real browser: mouse, keyboard, no JavaScript, reload, double click."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from study_run import write_run
from study_site import Place, make_place

from dbbench.study.answers.database import default_url, open_database
from dbbench.study.answers.store import Store

CHROMIUM = Path("/usr/bin/chromium")
DBBENCH = str(Path(sys.executable).with_name("dbbench"))
CHOICES = ["left", "right", "undecided", "right", "left", "undecided"]


@dataclass(frozen=True)
class Server:
    """`dbbench study serve` in a process of its own."""

    place: Place
    address: str

    def answers(self, number: int) -> list[str]:
        """The choices of personal link `number` in the order of its questions."""
        rater = self.place.secrets.opaque("rater", number)
        database = open_database(default_url(self.place.folder))
        rows = Store(self.place.study, database).answers()
        database.close()
        return [row["choice"] for row in rows if row["rater"] == rater]


@contextmanager
def serving(place: Place) -> Iterator[Server]:
    """Serve a study until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([DBBENCH, "study", "serve", str(place.folder), "--port", str(port)])
    try:
        for _ in range(600):
            assert process.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Server(place, f"http://127.0.0.1:{port}")
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(make_place(tmp_path_factory.mktemp("browser"))) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM} (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A new browser window; what its console complains of fails the test."""
    options = getattr(request, "param", {})
    context = browser.new_context(**options)
    context.set_default_timeout(60_000)
    window = context.new_page()
    complaints: list[str] = []
    window.on(
        "console", lambda said: complaints.append(said.text) if said.type == "error" else None
    )
    window.on("pageerror", lambda error: complaints.append(str(error)))
    yield window
    context.close()
    # The console mentions refused answers (409) and administration without its token (401).
    assert [said for said in complaints if not {"409", "401"} & set(said.split())] == []


def agree(page: Any, server: Server, number: int) -> None:
    page.goto(server.address + server.place.personal(number))
    page.get_by_role("button", name="I agree and take part").click()
    page.get_by_role("link", name="Start").click()


def test_a_questionnaire_by_mouse(page: Any, server: Server) -> None:
    agree(page, server, 1)
    names = {"left": "Image 1", "right": "Image 2", "undecided": "Cannot determine"}
    for number, choice in enumerate(CHOICES, 1):
        page.get_by_text(f"Question {number} of 6", exact=True).wait_for()
        for image in page.get_by_role("img").all():
            assert image.evaluate("i => i.complete && i.naturalWidth") == 24
        page.get_by_role("button", name=names[choice]).click()
    page.get_by_role("heading", name="Thank you").wait_for()
    assert server.place.secrets.completion_code(server.place.secrets.opaque("rater", 1)) in (
        page.content()
    )
    assert server.answers(1) == CHOICES


def test_a_questionnaire_by_keyboard(page: Any, server: Server) -> None:
    page.goto(server.address + server.place.personal(2))
    page.get_by_role("button", name="I agree").focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Start").focus()
    page.keyboard.press("Enter")
    keys = {"left": "1", "right": "2", "undecided": "3"}
    for number, choice in enumerate(CHOICES, 1):
        page.get_by_text(f"Question {number} of 6", exact=True).wait_for()
        page.keyboard.press(keys[choice])
    page.get_by_role("heading", name="Thank you").wait_for()
    assert server.answers(2) == CHOICES


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_a_questionnaire_without_javascript(page: Any, server: Server) -> None:
    agree(page, server, 3)
    for number, choice in enumerate(CHOICES, 1):
        page.get_by_text(f"Question {number} of 6", exact=True).wait_for()
        page.locator(f"button[value={choice}]").click()
    page.get_by_role("heading", name="Thank you").wait_for()
    assert server.answers(3) == CHOICES


def test_reload_back_and_a_closed_browser_lose_and_double_nothing(
    page: Any, browser: Any, server: Server
) -> None:
    agree(page, server, 4)
    page.locator("button[value=left]").click()
    page.get_by_text("Question 2 of 6", exact=True).wait_for()
    page.reload()
    page.get_by_text("Question 2 of 6", exact=True).wait_for()
    page.go_back()
    page.get_by_text("Image 1: your answer").wait_for()
    assert page.locator("form").count() == 0
    page.get_by_role("link", name="Continue").click()
    page.locator("button[value=right]").click()
    page.get_by_text("Question 3 of 6", exact=True).wait_for()
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(server.address + server.place.personal(4))
        other.get_by_text("Question 3 of 6", exact=True).wait_for()
        other.locator("button[value=undecided]").click()
        other.get_by_text("Question 4 of 6", exact=True).wait_for()
    # The first window still shows question 3: its answer is another one, and does not count.
    page.locator("button[value=left]").click()
    page.get_by_role("heading", name="This answer was not stored").wait_for()
    page.get_by_role("link", name="Continue").click()
    page.get_by_text("Question 4 of 6", exact=True).wait_for()
    assert server.answers(4) == ["left", "right", "undecided"]


@pytest.mark.parametrize(
    ("page", "number"),
    [({"java_script_enabled": True}, 5), ({"java_script_enabled": False}, 6)],
    indirect=["page"],
)
def test_a_double_click_answers_one_question(page: Any, number: int, server: Server) -> None:
    agree(page, server, number)
    for question in range(1, 4):
        page.get_by_text(f"Question {question} of 6", exact=True).wait_for()
        page.locator("button[value=undecided]").dblclick()
        page.get_by_text(f"Question {question + 1} of 6", exact=True).wait_for()
    assert server.answers(number) == ["undecided"] * 3


CONSENT = """We are <b>nobody</b> & pay 2 €.

You may stop
at any time."""
PHONE = {
    "java_script_enabled": False,
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
}


def fits(page: Any) -> None:
    """Nothing is wider than the window, and what one can press is large enough for a finger."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for button in page.locator("button, a.button").all():
        box = button.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["height"] >= 44


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_own_consent_and_code_are_what_raters_read_on_a_phone(page: Any, tmp_path: Path) -> None:
    consent, study = tmp_path / "consent.txt", tmp_path / "study"
    consent.write_text(CONSENT, encoding="utf-8")
    run = write_run(tmp_path / "run", prompts=3, images=2, subjects=("dog", "teapot"))
    command = [DBBENCH, "study", "create", str(run), "--out", str(study), "--question", "prompt"]
    command += ["--pairs=10", "--questions-per-rater=5", "--checks=1"]
    command += [f"--consent={consent}", "--completion-code=C0DE-<7>"]
    subprocess.run(command, check=True, capture_output=True)
    with serving(Place(study)) as server:
        for number in (1, 2):
            page.context.clear_cookies()
            page.goto(server.address + server.place.personal(number))
            paragraphs = page.locator("main p").all_inner_texts()
            assert paragraphs == ["We are <b>nobody</b> & pay 2 €.", "You may stop at any time."]
            fits(page)
            page.get_by_role("button", name="I agree and take part").tap()
            page.get_by_role("link", name="Start").wait_for()
            fits(page)
            page.get_by_role("link", name="Start").tap()
            for question, choice in enumerate(CHOICES, 1):
                page.get_by_text(f"Question {question} of 6", exact=True).wait_for()
                fits(page)
                # The text, the pair and all three answers are on one screen.
                last = page.locator("button[value=undecided]").bounding_box()
                assert last["y"] + last["height"] <= 740
                page.locator(f"button[value={choice}]").tap()
            page.get_by_role("heading", name="Thank you").wait_for()
            assert page.locator("p.code").inner_text() == "C0DE-<7>"
            fits(page)
            assert server.answers(number) == CHOICES
        page.goto(f"{server.address}/admin")
        page.fill("#token", server.place.secrets.admin_token)
        page.get_by_role("button", name="Enter").tap()
        page.get_by_role("heading", name="Progress").wait_for()
        # Whoever pays compares what raters hand in with this list.
        assert page.get_by_text("C0DE-<7>").count() == 2
