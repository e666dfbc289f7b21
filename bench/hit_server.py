"""A validator cut down to its hit path, served by grpc.aio or by grpc.server: what `bench.server_model` compares.

Both models answer hits with the same function. An id that is not in the cache waits for a slow upstream that is
only a delay: `asyncio.sleep` in one, a thread that sleeps in the other. It is no sidecar: no lease, no bounds.

    python -m bench.hit_server {aio,threads} SOCKET --upstream-ms MS --sessions N
"""

import argparse
import asyncio
import hashlib
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from trust_core import identifiers, modes
from trustlayer.v1 import types_pb2, validator_pb2

THREADS: Final = 64
CLIENT: Final = modes.RequestContext(client_ip="198.51.100.7")
OPTIONS: Final = (("grpc.so_reuseport", 0),)


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached session."""

    binding: modes.Binding
    session: types_pb2.Session
    filled_ns: int


class Cache:
    """LRU by digest. Touched by one event loop only, so it needs no lock."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def put(self, digest: bytes, entry: Entry) -> None:
        self._entries[digest] = entry

    def get(self, digest: bytes) -> Entry | None:
        entry = self._entries.get(digest)
        if entry is not None:
            self._entries.move_to_end(digest)
        return entry


class LockedCache(Cache):
    """The same for many threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> Entry | None:
        with self._lock:
            return super().get(digest)


def session_id(number: int) -> str:
    """Make the same session id for the same number in every process."""
    return identifiers.new_session_id(hashlib.shake_128(number.to_bytes(8)).digest)


def request_for(number: int) -> bytes:
    """Serialize a Validate request for that session."""
    context = types_pb2.RequestContext(client_ip=CLIENT.client_ip)
    request = validator_pb2.ValidateRequest(
        session_id=session_id(number), mode=types_pb2.VALIDATION_MODE_STANDARD, context=context
    )
    return request.SerializeToString()


def fill(cache: Cache, sessions: int) -> None:
    """Put sessions 0 … n-1 into the cache."""
    binding = modes.bind(CLIENT, b"k" * 32)
    for number in range(sessions):
        session = types_pb2.Session(
            handle=identifiers.new_session_handle(hashlib.shake_128(number.to_bytes(8)).digest),
            user=types_pb2.User(
                id=identifiers.new_user_id(hashlib.shake_128(number.to_bytes(8)).digest),
                email=f"user{number}@example.com",
                name="Ada",
                status=types_pb2.USER_STATUS_ACTIVE,
                roles=["reader", "writer"],
            ),
            authentication_methods=["password"],
        )
        cache.put(identifiers.digest(session_id(number)), Entry(binding, session, time.monotonic_ns()))


def hit(cache: Cache, request: validator_pb2.ValidateRequest) -> validator_pb2.ValidateResponse | None:
    """Answer from the cache; `None` when the session is not in it."""
    digest = identifiers.session_digest(request.session_id)
    entry = None if digest is None else cache.get(digest)
    if entry is None:
        return None
    given = request.context
    context = modes.RequestContext(given.client_ip, given.device_fingerprint, given.user_agent)
    reason = modes.check(modes.ValidationMode(request.mode), entry.binding, context)
    if reason is not None:
        return denied(int(reason))
    response = validator_pb2.ValidateResponse(
        session=entry.session, freshness=types_pb2.Freshness(tier=types_pb2.TIER_LRU, revision=1)
    )
    response.freshness.age.FromNanoseconds(time.monotonic_ns() - entry.filled_ns)
    return response


def denied(reason: Any) -> validator_pb2.ValidateResponse:
    return validator_pb2.ValidateResponse(denial=types_pb2.Denial(reason=reason))


def handler_for(behavior: Callable[..., Any]) -> grpc.GenericRpcHandler:
    """Serve ValidatorService/Validate and nothing else."""
    method = grpc.unary_unary_rpc_method_handler(
        behavior,
        request_deserializer=validator_pb2.ValidateRequest.FromString,
        response_serializer=validator_pb2.ValidateResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("trustlayer.v1.ValidatorService", {"Validate": method})


async def serve_aio(socket: Path, sessions: int, upstream_seconds: float) -> None:
    cache = Cache()
    fill(cache, sessions)

    async def validate(request: validator_pb2.ValidateRequest, _: object) -> validator_pb2.ValidateResponse:
        response = hit(cache, request)
        if response is None:
            await asyncio.sleep(upstream_seconds)
            return denied(types_pb2.DENIAL_REASON_UNKNOWN)
        return response

    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((handler_for(validate),))
    server.add_insecure_port(f"unix:{socket}")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await server.start()
    print(f"aio listening on unix:{socket}", flush=True)
    await stopped.wait()
    await server.stop(None)


def serve_threads(socket: Path, sessions: int, upstream_seconds: float) -> None:
    cache = LockedCache()
    fill(cache, sessions)

    def validate(request: validator_pb2.ValidateRequest, _: object) -> validator_pb2.ValidateResponse:
        response = hit(cache, request)
        if response is None:
            time.sleep(upstream_seconds)
            return denied(types_pb2.DENIAL_REASON_UNKNOWN)
        return response

    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=OPTIONS)
    server.add_generic_rpc_handlers((handler_for(validate),))
    server.add_insecure_port(f"unix:{socket}")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server.start()
    print(f"threads listening on unix:{socket}", flush=True)
    stopped.wait()
    server.stop(None).wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("aio", "threads"))
    parser.add_argument("socket", type=Path)
    parser.add_argument("--upstream-ms", type=int, required=True)
    parser.add_argument("--sessions", type=int, required=True)
    arguments = parser.parse_args()
    seconds = arguments.upstream_ms / 1000
    if arguments.model == "aio":
        asyncio.run(serve_aio(arguments.socket, arguments.sessions, seconds))
    else:
        serve_threads(arguments.socket, arguments.sessions, seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
