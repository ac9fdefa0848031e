"""Every error of the hub is one true line with its own remedy; no test has a network."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import are_progress_bars_disabled

from dbbench.errors import UserError
from dbbench.evaluation.encoders import _network
from dbbench.generation.pipelines import loading
from dbbench.hub import explain, pointer

# The HTTP client that this version of huggingface_hub is built on: httpx, or its successor.
httpx: Any = importlib.import_module(errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])


def answer(code: int) -> Any:
    return httpx.Response(code, request=httpx.Request("GET", "http://hub.invalid/owner/name"))


def behind(cause: BaseException) -> BaseException:
    """The error of a download, raised from what went wrong with the connection."""
    error = errors.LocalEntryNotFoundError("an error happened, and there is no cached file")
    error.__cause__ = cause
    return error


CASES = {
    "gated": (errors.GatedRepoError("403", response=answer(403)), "accept its licence.*auth login"),
    "missing": (errors.RepositoryNotFoundError("404", response=answer(404)), "deleted or renamed"),
    "private": (errors.RepositoryNotFoundError("401", response=answer(401)), "private.*HF_TOKEN"),
    "disabled": (errors.DisabledRepoError("403", response=answer(403)), "disabled.*mirror"),
    "revision": (errors.RevisionNotFoundError("404", response=answer(404)), 'no revision "v9"'),
    "file": (errors.RemoteEntryNotFoundError("no x.json", response=answer(404)), "x.json"),
    "rate": (errors.HfHubHTTPError("429", response=answer(429)), "rate limit.*wait"),
    "token": (errors.HfHubHTTPError("401", response=answer(401)), "renew the token.*auth login"),
    "fault": (errors.HfHubHTTPError("503", response=answer(503)), "HTTP 503.*try again later"),
    "slow": (behind(httpx.ReadTimeout("timed out")), "in time.*HF_HUB_DOWNLOAD_TIMEOUT"),
    "offline": (behind(errors.OfflineModeIsEnabled("off")), "HF_HUB_OFFLINE is set"),
    "full": (OSError(28, "No space left on device"), "disk is full.*HF_HOME"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_error_has_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, line = CASES[name]

    def fails(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(loading, "hf_hub_download", fails)
    with pytest.raises(UserError, match=f'no backbone "owner/name".*{line}') as caught:
        loading.load_pipeline("owner/name", revision="v9")
    assert "\n" not in str(caught.value)
    assert "http://" not in str(caught.value)


def test_a_download_shows_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = []

    def looks(*_: object, **__: object) -> str:
        hidden.append(are_progress_bars_disabled())
        raise errors.OfflineModeIsEnabled("off")

    monkeypatch.setattr(loading, "hf_hub_download", looks)
    with pytest.raises(UserError):
        loading.load_pipeline("owner/name")
    assert hidden == [False]


def test_no_connection_names_the_way_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    reason = explain(behind(httpx.ConnectError("name not known")), "owner/name")
    assert "cannot be reached" in reason
    assert "hf download owner/name --local-dir FOLDER" in reason


@pytest.mark.parametrize(
    ("code", "header", "line"),
    [
        (403, "GatedRepo", "accept its licence"),
        (404, "RepoNotFound", "deleted or renamed"),
        (429, "", "rate limit"),
        (404, "EntryNotFound", r"offers none of model\.safetensors"),
    ],
)
def test_the_encoders_say_the_same(
    monkeypatch: pytest.MonkeyPatch, code: int, header: str, line: str
) -> None:
    def head(request: Any) -> Any:
        return httpx.Response(code, headers={"X-Error-Code": header}, request=request)

    client = httpx.Client(transport=httpx.MockTransport(head))
    monkeypatch.setattr("huggingface_hub.get_session", lambda: client)
    with pytest.raises(UserError, match=f"timm:x: .*{line}"):
        _network.hub_weights("owner/name", ["model.safetensors"], encoder="timm:x")


def test_a_pointer_of_git_lfs_is_known(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"version https://git-lfs" + b"\noid sha256:aa\nsize 1\n")
    assert "git lfs pull" in str(pointer(file))
    file.write_bytes(b"anything else")
    assert pointer(file) is None
    assert pointer(tmp_path / "missing") is None
