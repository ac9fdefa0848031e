"""A served study for the tests: its folder, its pages in this process, and how raters get in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.testclient import TestClient
from study_run import write_run

from dbbench.study.design.create import StudySettings, create_study
from dbbench.study.design.secret import Secrets
from dbbench.study.design.study import Study, StudyQuestion, load_study
from dbbench.study.design.texts import default_texts
from dbbench.study.server.site import Site
from dbbench.study.server.web import make_app


@dataclass(frozen=True)
class Place:
    """A study's folder with what a test needs of it."""

    folder: Path

    @property
    def study(self) -> Study:
        return load_study(self.folder)

    @property
    def secrets(self) -> Secrets:
        return Secrets.load(self.folder)

    def personal(self, number: int) -> str:
        return "/r/" + self.secrets.sign("link", self.secrets.opaque("rater", number))

    @property
    def open_link(self) -> str:
        return "/join/" + self.secrets.sign("open", self.study.id)


def make_place(
    folder: Path, question: StudyQuestion = "subject", *, credit: str = "photo by {number} (CC0)"
) -> Place:
    """Write a study of 20 pairs with 5 questions and one attention check for each rater."""
    run = write_run(folder / "run", prompts=4, images=2, subjects=("dog", "teapot"), credit=credit)
    settings = StudySettings(question, pairs=20, questions_per_rater=5, checks_per_rater=1, quota=3)
    create_study([run], folder / "study", settings, default_texts(question, 6))
    return Place(folder / "study")


@contextmanager
def visiting(place: Place, url: str | None = None, **options: Any) -> Iterator[TestClient]:
    """A browser without JavaScript, in this process; `client.site` is what it visits."""
    app = make_app(place.folder, url, **options)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def site(client: TestClient) -> Site:
    found = client.app.state.site  # type: ignore[attr-defined]
    assert isinstance(found, Site)
    return found


def token(response: httpx.Response) -> str:
    """The hidden token of a page's form."""
    found = re.search(r'name="token" value="([^"]+)"', response.text)
    assert found, response.text
    return found[1]


def take_part(client: TestClient, link: str) -> httpx.Response:
    """Open a link and agree; return the first question."""
    consent = client.get(link)
    assert client.post("/consent", data={"token": token(consent)}).status_code == 200
    return client.get("/")


def answer(client: TestClient, page: httpx.Response, choice: str) -> httpx.Response:
    """Press a button on a question's page."""
    return client.post(page.url.path, data={"token": token(page), "choice": choice})
