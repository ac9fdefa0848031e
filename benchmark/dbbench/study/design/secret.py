"""The study's secrets and all that they sign: ids, links, sessions, forms; the server uses them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbbench.errors import UserError

SECRETS_FILE = "secrets.json"  # pragma: allowlist secret


@dataclass(frozen=True)
class Secrets:
    """The signing key, and the token of the administration page. Never shown to a rater."""

    key: str
    admin_token: str

    @classmethod
    def new(cls) -> Secrets:
        """Make both from the system's random source."""
        return cls(secrets.token_hex(32), secrets.token_urlsafe(24))

    @classmethod
    def load(cls, folder: Path) -> Secrets:
        """Read a folder's secrets. Raises UserError if they are missing or others can read them."""
        path = folder / SECRETS_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = cls(str(document["key"]), str(document["admin_token"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); restore the file, all links are signed with it"
            ) from None
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UserError(f"other users can read {path}; protect it with: chmod 600 {path}")
        if len(found.key) < 32 or len(found.admin_token) < 16:
            raise UserError(
                f"{path} holds a key or a token that is too short; restore the original file"
            )
        return found

    def save(self, folder: Path) -> None:
        """Write them; only the owner can read the file."""
        descriptor = os.open(folder / SECRETS_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump({"key": self.key, "admin_token": self.admin_token}, stream, indent=1)

    def opaque(self, *parts: str | int, length: int = 20) -> str:
        """Return a keyed hash of the parts as hexadecimal digits; it reveals nothing about them."""
        text = json.dumps(parts, ensure_ascii=False)
        return hmac.new(self.key.encode(), text.encode(), hashlib.sha256).hexdigest()[:length]

    def sign(self, purpose: str, value: Any) -> str:
        """Return the value as signed text for links, cookies and forms."""
        return str(self._serializer(purpose).dumps(value))

    def unsign(self, purpose: str, text: str) -> Any | None:
        """Return the value of text signed for this purpose; None if the signature is invalid."""
        from itsdangerous import BadData

        try:
            return self._serializer(purpose).loads(text)
        except BadData:
            return None

    def is_admin(self, token: str) -> bool:
        """Compare a token with the administration token, in constant time."""
        return hmac.compare_digest(token.encode(), self.admin_token.encode())

    def completion_code(self, rater: str) -> str:
        """Return the code that a rater shows to be paid, such as "7F3A-09C2"."""
        code = self.opaque("completion", rater, length=8).upper()
        return f"{code[:4]}-{code[4:]}"

    def _serializer(self, purpose: str) -> Any:
        from itsdangerous import URLSafeSerializer

        return URLSafeSerializer(
            self.key,
            salt=f"dbbench.study.{purpose}",
            signer_kwargs={"digest_method": hashlib.sha256},
        )
