"""What the model hub's errors mean to the user; whatever loads from the hub says them so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_POINTER = b"version https://git-lfs"


def explain(
    error: BaseException,
    repository: str,
    *,
    revision: str | None = None,
    without: str | None = None,
) -> str:
    """Return one sentence: why `repository` cannot be had from the hub, and the remedy.

    `without` is what to do where there is no network; by default, to download the whole. Reads the
    exception classes of huggingface_hub, also of the causes behind the error.
    """
    from huggingface_hub import errors

    chain = list(_causes(error))
    without = without or (
        f"on a machine with network run `hf download {repository} --local-dir FOLDER`, and give"
        " FOLDER"
    )
    offline = f"{repository} is not in the local cache and HF_HUB_OFFLINE is set; unset it, or"
    offline = f"{offline} {without}"
    for kind, reason in (
        (
            errors.GatedRepoError,
            f"{repository} is gated: accept its licence on its page, then {_LOG_IN}",
        ),
        (
            errors.RevisionNotFoundError,
            f'{repository} has no revision "{revision}"; correct or remove it',
        ),
        (errors.DisabledRepoError, f"{repository} was disabled by the hub; use a mirror of it"),
        (
            errors.RepositoryNotFoundError,
            f"the hub has no {repository}: it was deleted or renamed, the name is wrong, or it is"
            f" private; correct the name, or where it is private, {_LOG_IN}",
        ),
        (errors.RemoteEntryNotFoundError, f"{repository} has not the file: {_line(error)}"),
        (errors.OfflineModeIsEnabled, offline),
    ):
        if any(isinstance(each, kind) for each in chain):
            return reason
    return _of_status(chain) or _of_network(chain, offline, without)


def _of_status(chain: list[BaseException]) -> str | None:
    """Return the meaning of an HTTP status among these errors, if there is one."""
    responses = [getattr(each, "response", None) for each in chain]
    codes = [int(code) for each in responses if (code := getattr(each, "status_code", None))]
    for code in codes:
        if code == 429:
            return f"the hub's rate limit is reached (HTTP 429); wait some minutes, or {_LOG_IN}"
        if code in {401, 403}:
            return f"the hub refuses the access (HTTP {code}); renew the token: {_LOG_IN}"
        if code >= 500:
            return f"the hub has a fault of its own (HTTP {code}); try again later"
        return f"the hub answers with HTTP {code}"
    return None


def _of_network(chain: list[BaseException], offline: str, without: str) -> str:
    from huggingface_hub import constants

    names = " ".join(type(each).__name__ for each in chain)
    if "Timeout" in names:
        return (
            "the hub did not answer in time; try again, or set HF_HUB_DOWNLOAD_TIMEOUT to more"
            " seconds"
        )
    if any(getattr(each, "errno", None) == 28 for each in chain):
        return "the disk is full; set HF_HOME to a folder with more room"
    if constants.HF_HUB_OFFLINE:
        return offline
    return f"the hub cannot be reached or does not have it ({_line(chain[-1])}); {without}"


def pointer(file: Path) -> str | None:
    """Return what to do about a file that is only git-lfs's pointer to it, None if it is not."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
    except OSError:
        return None
    if start != _POINTER:
        return None
    return f"{file} is a git-lfs pointer, not the file itself; run `git lfs pull` in its folder"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from, each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


_LOG_IN = "run `hf auth login` or set HF_TOKEN"
