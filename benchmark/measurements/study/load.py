"""Load test of the study server: many simulated raters; counts lost and duplicate answers.

    python benchmark/measurements/study/load.py results/mini --raters 200 \\
        --out benchmark/measurements/results/study-load.json

Creates a study of that run in a temporary folder and serves it on 127.0.0.1. The raters answer
through its pages over HTTP. Then the database is compared with the answers that the server
confirmed. Some raters click twice, some close the browser and come back. With --kill the server is
killed (-9) in the middle and started again. The test ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from dbbench.study.answers.store import open_store
from dbbench.study.design.create import StudySettings, create_study
from dbbench.study.design.secret import Secrets
from dbbench.study.design.study import CHOICES, Study
from dbbench.study.design.texts import default_texts

HOST = "127.0.0.1"
JOIN_SECONDS = 0.05  # From one rater's arrival to the next, on average.
DOUBLE_CLICKS, RETURNS = 0.05, 0.02
GIVE_UP = 600.0


@dataclass
class Record:
    """Measurements of the raters: latencies in seconds by kind of request, confirmed answers."""

    latencies: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    confirmed: dict[tuple[str, str], str] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    through: int = 0


@dataclass
class Page:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    text: str


class Browser:
    """A persistent connection with a cookie; no JavaScript, redirects are not followed."""

    def __init__(self, port: int, record: Record) -> None:
        self._port, self._record = port, record
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._cookie = ""

    async def fetch(self, kind: str, path: str, body: str | None = None) -> Page:
        """Send one request and time it."""
        begun = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        method = "GET" if body is None else "POST"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{self._port}"]
        if self._cookie:
            lines.append(f"Cookie: {self._cookie}")
        if body is not None:
            lines.append("Content-Type: application/x-www-form-urlencoded")
            lines.append(f"Content-Length: {len(body)}")
        writer.write(("\r\n".join(lines) + "\r\n\r\n" + (body or "")).encode())
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        for line in head[1:]:
            if line.lower().startswith("set-cookie:"):
                self._cookie = line.split(": ", 1)[1].split(";")[0]
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        self._record.latencies[kind].append(time.perf_counter() - begun)
        status = int(head[0].split()[1])
        self._record.statuses[f"{kind} {status}"] += 1
        return Page(status, headers, content.decode("utf-8", "replace"))

    def close(self) -> None:
        """Close the connection and delete the cookie."""
        self.drop()
        self._cookie = ""

    def drop(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True)
class Rater:
    """A simulated rater with a personal link, who answers all questions."""

    number: int
    link: str
    think: float
    secrets: Secrets
    record: Record
    port: int

    async def run(self) -> None:
        """Answer until the completion code is shown; after a broken connection, reopen the link."""
        rng = random.Random(self.number)
        await asyncio.sleep(self.number * JOIN_SECONDS)
        browser = Browser(self.port, self.record)
        path, broken_since = self.link, 0.0
        while True:
            try:
                page = await browser.fetch(_kind(path), path)
                broken_since = 0.0
                if page.status == 303:
                    path = page.headers["location"]
                elif path == "/consent":
                    form = f"token={_token(page)}"
                    path = (await browser.fetch("agree", path, form)).headers["location"]
                elif path == "/instructions":
                    path = "/"
                elif path.startswith("/question/"):
                    path = await self._answer(browser, path, page, rng)
                elif path == "/done":
                    self.record.through += 1
                    browser.close()
                    return
                else:
                    raise RuntimeError(f"{path}: {page.status} {page.text[:300]}")
            except (OSError, EOFError):
                self.record.broken += 1
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > GIVE_UP:
                    raise
                browser.drop()
                await asyncio.sleep(0.5)
                path = self.link

    async def _answer(self, browser: Browser, path: str, page: Page, rng: random.Random) -> str:
        await asyncio.sleep(rng.expovariate(1 / self.think) if self.think else 0)
        token, choice = _token(page), rng.choice(CHOICES)
        form = f"token={token}&choice={choice}"
        response = await browser.fetch("answer", path, form)
        if response.status != 303:
            raise RuntimeError(f"{path}: {response.status} {response.text[:300]}")
        rater, pair = self.secrets.unsign("answer", token)[:2]
        before = self.record.confirmed.setdefault((rater, pair), choice)
        assert before == choice, "two answers to one question were confirmed"
        if rng.random() < DOUBLE_CLICKS:
            await browser.fetch("answer again", path, form)
        if rng.random() < RETURNS:
            browser.close()
            return self.link
        return response.headers["location"]


def main(
    run: Annotated[Path, typer.Argument(help="An output folder of dbbench run.")],
    raters: Annotated[int, typer.Option(min=1)] = 200,
    questions: Annotated[int, typer.Option(min=1)] = 25,
    raters_per_pair: Annotated[int, typer.Option(min=1)] = 5,
    think: Annotated[float, typer.Option(help="Seconds between page and answer, on average.")] = 3,
    database: Annotated[str | None, typer.Option(help="Default: SQLite.")] = None,
    kill: Annotated[bool, typer.Option(help="Kill the server in the middle.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the result here.")] = None,
) -> None:
    """Run the raters; exit with 1 if an answer was lost or duplicated."""
    with tempfile.TemporaryDirectory(prefix="study-load-") as name:
        folder = Path(name) / "study"
        settings = StudySettings(
            "subject",
            pairs=raters * questions // raters_per_pair,
            raters_per_pair=raters_per_pair,
            questions_per_rater=questions,
        )
        study = create_study([run], folder, settings, default_texts("subject", questions + 2))
        result = asyncio.run(_load(folder, study, raters, think, database, kill))
    if out is not None:
        known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        key = f"{result['database']}{', server killed' if kill else ''}"
        out.write_text(json.dumps(known | {key: result}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    wrong = result["lost"] + result["changed"] + result["doubled"]
    raise typer.Exit(int(bool(wrong) or not result["every_pair_has_its_raters"]))


async def _load(
    folder: Path, study: Study, raters: int, think: float, database: str | None, kill: bool
) -> dict[str, Any]:
    secrets, record, port = Secrets.load(folder), Record(), _free_port()
    start = _starter(folder, port, database)
    server = await start()
    begun, cpu = time.monotonic(), os.times()
    people = [
        Rater(
            n,
            f"/r/{secrets.sign('link', secrets.opaque('rater', n))}",
            think,
            secrets,
            record,
            port,
        )
        for n in range(raters)
    ]
    try:
        crowd = asyncio.gather(*(person.run() for person in people))
        killed_after = 0
        if kill:
            half = study.questions_per_rater * raters // 2
            while len(record.confirmed) < half and not crowd.done():
                await asyncio.sleep(0.02)
            server.send_signal(signal.SIGKILL)
            server.wait()
            killed_after = len(record.confirmed)
            server = await start()
        await crowd
        seconds = time.monotonic() - begun
    finally:
        server.terminate()
        server.wait()
    used = os.times()
    store = open_store(folder, database)
    stored = {(row["rater"], row["pair"]): row["choice"] for row in store.answers()}
    checks = {check.id for check in study.checks}
    by_pair = Counter(pair for _, pair in stored if pair not in checks)
    everything = [t for kind in record.latencies.values() for t in kind]
    return {
        "database": store.database.engine.dialect.name,
        "raters": raters,
        "raters_through": record.through,
        "think_seconds": think,
        "answers_confirmed": len(record.confirmed),
        "answers_stored": len(store.answers()),
        "lost": len(record.confirmed.keys() - stored.keys()),
        "changed": sum(
            stored.get(key, choice) != choice for key, choice in record.confirmed.items()
        ),
        "doubled": len(store.answers()) - len(stored),
        "every_pair_has_its_raters": set(by_pair.values()) == {study.raters_per_pair}
        and len(by_pair) == len(study.pairs),
        "killed_after_answers": killed_after,
        "broken_connections": record.broken,
        "seconds": round(seconds, 1),
        "requests": len(everything),
        "requests_per_second": round(len(everything) / seconds, 1),
        "milliseconds": {"all": _quantiles(everything)}
        | {kind: _quantiles(times) for kind, times in sorted(record.latencies.items())},
        "statuses": dict(sorted(record.statuses.items())),
        "cores": os.cpu_count(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "client_cpu_seconds": round(used.user + used.system - cpu.user - cpu.system, 1),
        "server_cpu_seconds": round(
            used.children_user + used.children_system - cpu.children_user - cpu.children_system, 1
        ),
    }


def _starter(
    folder: Path, port: int, database: str | None
) -> Callable[[], Awaitable[subprocess.Popen[bytes]]]:
    command = [str(Path(sys.executable).with_name("dbbench")), "study", "serve", str(folder)]
    command += ["--port", str(port)] + (["--database", database] if database else [])

    async def start() -> subprocess.Popen[bytes]:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        waited = time.monotonic()
        while time.monotonic() - waited < GIVE_UP:
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with {server.returncode}: {command}")
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return server
        raise RuntimeError("the server did not answer")

    return start


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _kind(path: str) -> str:
    kind = path.split("/")[1] or "home"
    return "link" if kind == "r" else kind


def _token(page: Page) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    if found is None:
        raise RuntimeError(f"no form on this page: {page.text[:300]}")
    return found[1]


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    names = {"median": 0.5, "p95": 0.95, "p99": 0.99, "slowest": 1.0}
    return {
        name: round(1000 * ordered[min(int(level * len(ordered)), len(ordered) - 1)], 1)
        for name, level in names.items()
    }


if __name__ == "__main__":
    typer.run(main)
