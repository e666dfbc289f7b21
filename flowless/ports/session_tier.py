"""What the services need of the tier between memory and database. It is an optimisation and never a witness."""

from typing import Protocol

from flowless.domain.sessions import SessionRead


class SessionTier(Protocol):
    """Sessions by digest, for a while. Nothing here ever raises or waits for long: what fails is a miss.

    What `get` returns was written by a Flowless over the database whose log has this name, and says of itself at
    which revision it was true. Whether it is true still is for the caller to know.
    """

    @property
    def enabled(self) -> bool:
        """Whether it is worth asking at all."""
        ...

    async def get(self, digest: bytes, *, log_id: str) -> SessionRead | None:
        """Look a session up."""
        ...

    async def fill(self, digest: bytes, read: SessionRead, *, log_id: str, ttl_seconds: float) -> None:
        """Keep a session, unless what is there is of a later revision."""
        ...

    async def bury(self, digest: bytes, revision: int, *, log_id: str) -> None:
        """Put a tombstone in the place of a session: fills from before this revision are refused."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


class NoSessionTier:
    """For deployments without one."""

    enabled = False

    async def get(self, digest: bytes, *, log_id: str) -> SessionRead | None:
        """Know nothing."""
        return None

    async def fill(self, digest: bytes, read: SessionRead, *, log_id: str, ttl_seconds: float) -> None:
        """Keep nothing."""

    async def bury(self, digest: bytes, revision: int, *, log_id: str) -> None:
        """Have nothing to bury."""

    async def close(self) -> None:
        """Have nothing to close."""
