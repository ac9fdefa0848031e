"""Raters get through without JavaScript, and what must not happen is refused and logged."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from study_site import Place, answer, make_place, site, take_part, token, visiting

from dbbench.errors import UserError
from dbbench.study.answers.answers import answer_table
from dbbench.study.design.secret import Secrets
from dbbench.study.server.guard import RateLimit
from dbbench.study.server.web import make_app


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def client(place: Place) -> Iterator[TestClient]:
    """A new browser at a study that nobody has answered."""
    for old in place.folder.glob("answers.sqlite*"):
        old.unlink()
    with visiting(place) as client:
        yield client


def test_a_whole_questionnaire(place: Place, client: TestClient) -> None:
    page = take_part(client, place.open_link)
    choices = ["left", "right", "undecided", "left", "left", "right"]
    for number, choice in enumerate(choices, 1):
        assert page.url.path == f"/question/{number}"
        assert f"Question {number} of 6" in page.text
        page = answer(client, page, choice)
    assert page.url.path == "/done"
    _, rater = _session(place, client)
    assert place.secrets.completion_code(rater) in page.text
    answers = site(client).store.answers()
    assert [row["choice"] for row in answers] == choices
    assert client.get("/").url.path == "/done"


def _session(place: Place, client: TestClient) -> tuple[str, str]:
    origin, rater = place.secrets.unsign("session", client.cookies["dbbench_study"])
    return str(origin), str(rater)


def test_page_shows_the_pair_the_references_and_their_alternatives(
    place: Place, client: TestClient
) -> None:
    page = take_part(client, place.personal(1))
    shown = re.findall(r'<img src="/image/([0-9a-f]+)" alt="([^"]*)"', page.text)
    assert [alt for _, alt in shown] == [
        *(f"Reference image {n} of 3" for n in (1, 2, 3)),
        "Image 1",
        "Image 2",
    ]
    for image, _ in shown:
        response = client.get(f"/image/{image}")
        assert response.headers["content-type"] == "image/webp"
        assert response.content[8:12] == b"WEBP"
    for method in place.study.methods:
        assert method not in page.text


def test_prompt_question_shows_the_text_only(tmp_path: Path) -> None:
    place = make_place(tmp_path, "prompt")
    with visiting(place) as client:
        page = take_part(client, place.personal(1))
        assert page.text.count("<img") == 2
        assert "best described by the reference text" in page.text
        assert re.search(r'<p class="prompt">a (dog|teapot)', page.text)


def test_closed_browser_goes_on_where_it_was(place: Place, client: TestClient) -> None:
    page = take_part(client, place.personal(2))
    for _ in range(3):
        page = answer(client, page, "left")
    with visiting(place) as elsewhere:
        assert elsewhere.get(place.personal(2)).url.path == "/question/4"
    # Open link: the personal link of the instructions serves the same.
    with visiting(place) as other:
        page = answer(other, take_part(other, place.open_link), "left")
        personal = re.search(r"(/r/[^<\s]+)", other.get("/instructions").text)
        assert personal
    with visiting(place) as again:
        assert again.get(personal[1]).url.path == "/question/2"


def test_answered_questions_can_be_seen_and_not_changed(place: Place, client: TestClient) -> None:
    first = take_part(client, place.personal(3))
    answer(client, first, "left")
    back = client.get("/question/1")
    assert "Image 1: your answer" in back.text
    assert "<form" not in back.text
    changed = answer(client, first, "right")
    assert changed.status_code == 409
    assert "Your first answer counts" in changed.text
    # The same answer again, as a double click sends it, leads on and counts once.
    same = answer(client, first, "left")
    assert (same.status_code, same.url.path) == (200, "/question/2")
    assert [row["choice"] for row in site(client).store.answers()] == ["left"]


def test_nobody_jumps_ahead(place: Place, client: TestClient) -> None:
    take_part(client, place.personal(4))
    assert client.get("/question/5").url.path == "/question/1"
    assert client.get("/question/99").url.path == "/question/1"
    assert client.get("/done").url.path == "/question/1"


def test_foreign_forged_and_empty_answers_are_refused_and_logged(
    place: Place, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    page = take_part(client, place.personal(5))
    with visiting(place) as thief:
        take_part(thief, place.personal(6))
        with caplog.at_level(logging.WARNING, "dbbench.study"):
            stolen = thief.post("/question/1", data={"token": token(page), "choice": "left"})
            assert stolen.status_code == 403
            assert "was not made for you" in stolen.text
    attempts = [
        ({"token": token(page)[:-2] + "xx", "choice": "left"}, 403),
        ({"choice": "left"}, 403),
        ({"token": token(page)}, 400),
        ({"token": token(page), "choice": "both"}, 400),
    ]
    _, rater = _session(place, client)
    own = {pair.id for pair in place.study.pairs}
    asked = {item.pair_id for item in site(client).store.questionnaire(rater) or []}
    for pair in ("no such pair", min(own - asked)):
        forged = place.secrets.sign("answer", [rater, pair, 0, 1, 6])
        attempts.append(({"token": forged, "choice": "left"}, 409))
    for form, status in attempts:
        with caplog.at_level(logging.WARNING, "dbbench.study"):
            caplog.clear()
            assert client.post("/question/1", data=form).status_code == status
            assert "refused" in caplog.text
    assert site(client).store.answers() == []


def test_links_cannot_be_guessed_or_bent(place: Place, client: TestClient) -> None:
    good = place.personal(7)
    body, _, signature = good.removeprefix("/r/").partition(".")
    other = place.personal(8).removeprefix("/r/").partition(".")[0]
    session = place.secrets.sign("session", ["link", "me"])
    for bad in (good[:-1], f"/r/{other}.{signature}", f"/r/{body}.", f"/r/{session}", "/r/x.y"):
        response = client.get(bad)
        assert response.status_code == 403, bad
        assert "needs a link" in response.text
        assert not response.cookies
    assert client.get("/join/" + good.removeprefix("/r/")).status_code == 403
    elsewhere = Secrets.new().sign("link", place.secrets.opaque("rater", 7))
    assert client.get(f"/r/{elsewhere}").status_code == 403
    client.cookies.set("dbbench_study", "forged.cookie")
    assert client.get("/").status_code == 403


def test_nothing_is_kept_of_a_visitor_who_does_not_agree(place: Place, client: TestClient) -> None:
    client.get(place.open_link)
    client.get("/consent")
    assert client.get("/question/1").url.path == "/consent"
    assert site(client).store.progress().raters == 0


def test_open_link_admits_its_quota(place: Place, client: TestClient) -> None:
    for _ in range(3):
        with visiting(place) as rater:
            take_part(rater, place.open_link)
    consent = client.get(place.open_link)
    refused = client.post("/consent", data={"token": token(consent)})
    assert refused.status_code == 403
    assert "The study is full" in refused.text


def test_double_consent_admits_once(place: Place, client: TestClient) -> None:
    consent = client.get(place.open_link)
    for _ in range(2):
        client.post("/consent", data={"token": token(consent)})
    assert site(client).store.progress().raters == 1


@pytest.mark.parametrize(
    "path",
    [
        "/image/../study.json",
        "/image/..%2Fsecrets.json",
        "/image/%2e%2e/secrets.json",
        "/image/00000000000000000000",
        "/static/../secrets.json",
        "/static/..%2F__init__.py",
        "/secrets.json",
        "/study.json",
        "/images/",
    ],
)
def test_no_address_leads_to_a_file(place: Place, client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert place.secrets.key not in response.text


def test_every_answer_has_the_headers_that_protect(place: Place, client: TestClient) -> None:
    page = take_part(client, place.personal(9))
    image = re.search(r"/image/[0-9a-f]+", page.text)
    assert image
    for path in ("/", "/nowhere", "/admin", "/static/study.js", image[0]):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    assert client.get("/").headers["cache-control"] == "no-store"
    assert "style=" not in page.text
    assert not re.search(r"<script(?! src)|\son[a-z]+=", page.text)


def test_session_cookie_is_closed_to_scripts_and_to_other_sites(place: Place) -> None:
    with visiting(place, https=True) as client:
        response = client.get(place.personal(1), follow_redirects=False)
        cookie = response.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert "secure" in cookie
        assert "strict-transport-security" in response.headers


def test_posts_from_other_sites_and_without_a_token_are_refused(
    place: Place, client: TestClient
) -> None:
    page = take_part(client, place.personal(10))
    form = {"token": token(page), "choice": "left"}
    other = client.post("/question/1", data=form, headers={"sec-fetch-site": "cross-site"})
    assert other.status_code == 403
    assert client.post("/consent", data={}).status_code == 403
    assert site(client).store.answers() == []


def test_large_requests_are_refused(place: Place, client: TestClient) -> None:
    page = take_part(client, place.personal(11))
    form = {"token": token(page), "choice": "left", "more": "x" * 10_000}
    assert client.post("/question/1", data=form).status_code == 413
    assert client.get("/" + "x" * 2000).status_code == 414

    def chunks() -> Iterator[bytes]:
        yield b"x" * 10

    assert client.post("/question/1", content=chunks()).status_code == 413
    assert site(client).store.answers() == []


def test_rate_limit_lets_a_burst_through_and_then_so_many_a_second() -> None:
    limit = RateLimit(rate=2, burst=3, keys=2)
    assert [limit.allows("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.allows("b", 0.0)
    assert limit.allows("a", 0.5)
    assert not limit.allows("a", 0.5)
    limit.allows("c", 0.5)
    assert len(limit._buckets) == 2


def test_too_many_requests_are_refused_for_that_visitor_alone(
    place: Place,
) -> None:
    with visiting(place, per_rater=(0.001, 30.0)) as other:
        take_part(other, place.personal(12))
        codes = [other.get("/static/study.js").status_code for _ in range(40)]
        assert (codes[0], codes[-1]) == (200, 429)
        other.cookies.clear()
        assert take_part(other, place.personal(13)).status_code == 200


def test_administration_is_closed_without_the_token(place: Place, client: TestClient) -> None:
    take_part(client, place.personal(14))
    for path in ("/admin", "/admin/answers.csv", "/admin/answers.jsonl"):
        response = client.get(path)
        assert response.status_code == 401
        assert "rater" not in response.text.lower()
    assert client.post("/admin", data={"token": "wrong"}).status_code == 403
    assert client.post("/admin", data={}).status_code == 403
    bearer = {"authorization": "Bearer wrong"}
    assert client.get("/admin", headers=bearer).status_code == 401
    client.cookies.set("dbbench_admin", place.secrets.sign("session", ["link", "x"]))
    assert client.get("/admin").status_code == 401


def test_administration_shows_progress_and_gives_the_answers(
    place: Place, client: TestClient
) -> None:
    page = take_part(client, place.personal(15))
    while page.url.path != "/done":
        page = answer(client, page, "right")
    overview = client.post("/admin", data={"token": place.secrets.admin_token})
    assert overview.url.path == "/admin"
    assert "5 of 60 answers" in overview.text
    _, rater = _session(place, client)
    assert place.secrets.completion_code(rater) in overview.text
    table = client.get("/admin/answers.csv").text.splitlines()
    assert len(table) == 1 + 6
    header = {"authorization": f"Bearer {place.secrets.admin_token}"}
    client.cookies.clear()
    lines = client.get("/admin/answers.jsonl", headers=header).text.splitlines()
    assert len(lines) == 6
    assert client.get("/admin/answers.exe", headers=header).status_code == 404


def test_no_personal_data_is_kept(place: Place, client: TestClient) -> None:
    agent = {"user-agent": "Unmistakable/1.0", "x-forwarded-for": "203.0.113.77"}
    client.headers.update(agent)
    page = take_part(client, place.open_link)
    answer(client, page, "left")
    kept = b"".join(p.read_bytes() for p in place.folder.glob("answers.sqlite*"))
    for word in (b"Unmistakable", b"203.0.113.77", b"testclient"):
        assert word not in kept
    columns = set(answer_table(place.study, site(client).store.answers()).columns)
    assert not columns & {"ip", "address", "agent", "name", "email"}


def test_texts_and_credits_are_escaped(tmp_path: Path) -> None:
    place = make_place(tmp_path, credit='<script>alert("{number}")</script>')
    with visiting(place) as client:
        page = client.get("/credits")
        assert "<script" not in page.text
        assert "&lt;script&gt;alert(" in page.text


def test_unknown_pages_and_methods_are_clear(client: TestClient) -> None:
    assert "Page not found" in client.get("/nowhere").text
    assert client.delete("/").status_code == 405
    assert client.post("/question/1").status_code == 403


def test_study_without_its_secrets_is_not_served(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "study.json").write_bytes((place.folder / "study.json").read_bytes())
    with pytest.raises(UserError, match=r"secrets\.json cannot be read"):
        make_app(copy)
