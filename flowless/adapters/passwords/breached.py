"""Passwords known from breaches, asked for by range: the service learns five characters of a SHA-1, of 40.

The protocol is that of Have I Been Pwned's range API (k-anonymity), which can be served by oneself too. It is asked
only when a password is set. Whatever goes wrong (refusal, silence, nonsense) is counted and logged, and counts as
"not known": an outage must not keep people from setting a password.

Shared state: the counters, touched by the event loop only.
"""

import asyncio
import hashlib
import re
from typing import Final

import httpx

from trust_core import logs

_TIMEOUT_SECONDS: Final = 2.0
_MAX_AT_ONCE: Final = 16
_MAX_BYTES: Final = 2 * 1024 * 1024
_LINE: Final = re.compile(r"([0-9A-Fa-f]{35}):(\d{1,12})", re.ASCII)


class BreachedPasswordRanges:
    """See `flowless.ports.passwords.BreachedPasswords`."""

    def __init__(self, *, url: str, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """`url` ends before the five characters, for example `https://ranges.example.org/range/`."""
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)
        self._client = httpx.AsyncClient(timeout=timeout_seconds, follow_redirects=False, trust_env=False)
        self.failures = 0

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def is_known(self, form: str) -> bool:
        """See the port."""
        hashed = hashlib.sha1(form.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest().upper()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                async with self._slots:
                    text = await self._range(hashed[:5])
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            self.failures += 1
            logs.get_logger("flowless").warning("cannot ask for breached passwords", why=type(error).__name__)
            return False
        # Padding lines have the count 0.
        return any(
            match[1].upper() == hashed[5:] and int(match[2]) > 0
            for match in map(_LINE.fullmatch, text.splitlines())
            if match is not None
        )

    async def _range(self, prefix: str) -> str:
        parts, size = [], 0
        # With padding, the size of the answer says nothing of the range.
        async with self._client.stream("GET", self._url + prefix, headers={"Add-Padding": "true"}) as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            async for part in response.aiter_bytes():
                size += len(part)
                if size > _MAX_BYTES:
                    raise ValueError("too long")
                parts.append(part)
        return b"".join(parts).decode("ascii")


class NoBreachedPasswords:
    """For deployments that do not ask anybody."""

    async def is_known(self, form: str) -> bool:
        """Know nothing."""
        return False

    async def close(self) -> None:
        """Have nothing to close."""
