"""The channel to Flowless, and another one in its place when the files of TLS are replaced.

Certificates of a mesh live for an hour, and gRPC's client keeps those that it was made with. So when files change,
a second channel is opened, and takes the first one's place once it is connected: Flowless itself has then accepted
what they hold. Until then the first goes on, and the second is tried again and again. Calls in flight finish where
they began; the watch moves by itself (`RevocationWatch`).

One event loop touches this. Bounded: one channel is tried at a time, and few that were replaced are kept.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc

from trust_core import logs
from trust_core.tls_files import LOOK_SECONDS, TlsFiles, TlsFilesError, TlsMaterial

_CONNECT_SECONDS: Final = 2.0
_RETIRED_SECONDS: Final = 600.0
_MAX_RETIRED: Final = 4


class UpstreamChannel:
    """See the module. `run` is a task, if the channel is replaceable."""

    def __init__(self, *, address: str, files: TlsFiles | None, options: Sequence[tuple[str, Any]]) -> None:
        """`files`: those of TLS, which is off without. Reads them, does not connect yet. Raises `TlsFilesError`."""
        self._address = address
        self._files = files
        self._options = options
        self._log: Any = logs.get_logger("bridge-sidecar")
        self._material = None if files is None else files.read()
        self._pending: TlsMaterial | None = None
        self._problem = ""
        self._retired: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        self.current = self._open(self._material)

    def _open(self, material: TlsMaterial | None) -> grpc.aio.Channel:
        if material is None:
            address = self._address
            if "," in address:
                address = f"{'ipv6' if '[' in address else 'ipv4'}:{address}"
            return grpc.aio.insecure_channel(address, options=self._options)
        credentials = grpc.ssl_channel_credentials(material.authorities, material.key, material.certificates)
        return grpc.aio.secure_channel(self._address, credentials, options=self._options)

    @property
    def is_replaceable(self) -> bool:
        """Whether there are files to look at."""
        return self._files is not None

    async def run(self) -> None:
        """Look at the files until cancelled; without any there is nothing to do, and it ends."""
        while self._files is not None:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look(self._files)

    async def _look(self, files: TlsFiles) -> None:
        try:
            self._pending = files.read_if_changed() or self._pending
        except TlsFilesError as error:
            self._say(str(error))
            return
        if self._pending is None or self._pending == self._material:
            return
        candidate = self._open(self._pending)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await candidate.channel_ready()
        except (TimeoutError, grpc.aio.UsageError):
            await candidate.close()
            self._say("Flowless cannot be reached with what they hold")
            return
        except BaseException:
            await candidate.close()
            raise
        self._material, self._pending, self._problem = self._pending, None, ""
        self._retire(self.current)
        self.current = candidate
        self._log.info("TLS files read again; connected anew")

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._log.warning("TLS files not replaced; those before stay", problem=problem)

    def _retire(self, channel: grpc.aio.Channel) -> None:
        """Let the channel's calls finish, unless very many channels do that already."""
        if len(self._retired) >= _MAX_RETIRED:
            self._retired.pop(next(iter(self._retired))).cancel()
        task = asyncio.create_task(self._close_later(channel))
        self._retired[channel] = task
        task.add_done_callback(lambda _: self._retired.pop(channel, None))

    @staticmethod
    async def _close_later(channel: grpc.aio.Channel) -> None:
        try:
            await channel.close(_RETIRED_SECONDS)  # returns as soon as its last call has ended
        finally:
            await channel.close(None)

    async def close(self) -> None:
        """Close all channels; calls in flight end."""
        retired = list(self._retired.values())
        for task in retired:
            task.cancel()
        await asyncio.gather(*retired, return_exceptions=True)
        await self.current.close(None)
