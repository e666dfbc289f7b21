"""Streams that are open, each with the credential that opened it: one that is no longer good ends its streams.

A call that lasts outlives the check at the door. So each stream is held here while it lasts. When the log says that a
bridge changed, its streams are looked at at once; all are looked at every two seconds besides, since a secret that
expires writes no row. A stream whose credential is refused is cut. Storage that fails cuts nothing: without storage
there are no pongs either, and nothing is written.

Shared state: the streams, touched by the event loop only. Bounded by the calls in flight.
"""

import asyncio
from typing import Final

from flowless.domain.bridges import ClientCertificate
from flowless.domain.revocations import Revocation
from flowless.services.bridges import Bridges
from trust_core.errors import TrustError

_LOOK_SECONDS: Final = 2.0


class OpenStream:
    """One stream. `cut` says that its task was cancelled because its credential is no longer good."""

    def __init__(
        self, *, bridge_id: str, secret_digest: bytes, certificate: ClientCertificate, task: "asyncio.Task[object]"
    ) -> None:
        self.credential = (bridge_id, secret_digest, certificate)
        self.cut = False
        self._task = task

    def end(self) -> None:
        """Cut the stream."""
        self.cut = True
        self._task.cancel()


class OpenStreams:
    """See the module. `run` is a task of the server's."""

    def __init__(self, *, bridges: Bridges) -> None:
        self._bridges = bridges
        self._streams: dict[OpenStream, None] = {}
        self._changed = asyncio.Event()

    def hold(self, *, bridge_id: str, secret_digest: bytes, certificate: ClientCertificate) -> OpenStream:
        """Watch over the stream that the running task serves, until that task ends."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a stream is served by a task")
        stream = OpenStream(bridge_id=bridge_id, secret_digest=secret_digest, certificate=certificate, task=task)
        self._streams[stream] = None
        task.add_done_callback(lambda _: self._streams.pop(stream))
        return stream

    def on_revocation(self, revocation: Revocation) -> None:
        """Look at the streams soon when a bridge changed. To be told after `Bridges.on_revocation`."""
        if revocation.subject == "bridge":
            self._changed.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._look()

    async def _look(self) -> None:
        by_credential: dict[tuple[str, bytes, ClientCertificate], list[OpenStream]] = {}
        for stream in self._streams:
            by_credential.setdefault(stream.credential, []).append(stream)
        for (bridge_id, digest, certificate), streams in by_credential.items():
            try:
                good = await self._bridges.still_accepts(bridge_id, digest, certificate)
            except TrustError:
                continue
            if not good:
                for stream in streams:
                    stream.end()
