"""Real sessions for the measurement: users registered and logged in at Flowless, and then seen by the sidecar."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import grpc

from tools.processes import BridgeCredential
from trustlayer.v1 import (
    identity_pb2,
    identity_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    types_pb2,
    validator_pb2,
    validator_pb2_grpc,
)

USERS: Final = 20
PASSWORD: Final = "correct horse battery staple"
CALL_SECONDS: Final = 30.0
IN_FLIGHT: Final = 8
CONTEXT: Final = types_pb2.RequestContext(
    client_ip="198.51.100.7",
    device_fingerprint="a-device-fingerprint-of-usual-length-0123456789abcdef",
    user_agent="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
)

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class UnexpectedAnswerError(Exception):
    """A program answered, but not as a measurement needs it."""


def request_for(session_id: str) -> validator_pb2.ValidateRequest:
    """Ask as an app would: everything it knows of the request, and the mode that needs least."""
    return validator_pb2.ValidateRequest(
        session_id=session_id, mode=types_pb2.VALIDATION_MODE_STANDARD, context=CONTEXT
    )


async def log_in(
    address: str, bridge: BridgeCredential, count: int, *, context: types_pb2.RequestContext = CONTEXT
) -> list[session_pb2.LoginResponse]:
    """Register a few users at Flowless and log them in until there are `count` sessions, bound to the context."""
    metadata = (("authorization", f"Bearer {bridge.secret}"),)
    emails = [f"user{number}@example.com" for number in range(min(USERS, count))]
    async with grpc.aio.insecure_channel(address) as channel:
        identity = identity_pb2_grpc.IdentityServiceStub(channel)
        sessions = session_pb2_grpc.SessionServiceStub(channel)

        async def register(email: str) -> None:
            request = identity_pb2.RegisterUserRequest(
                email=email, password=PASSWORD, name="Ada", last_name="Lovelace", roles=["reader", "writer"]
            )
            await identity.RegisterUser(request, metadata=metadata, timeout=CALL_SECONDS)

        async def login(email: str) -> session_pb2.LoginResponse:
            request = session_pb2.LoginRequest(login=email, password=PASSWORD, context=context)
            return await sessions.Login(request, metadata=metadata, timeout=CALL_SECONDS)

        await _for_each(emails, register)
        return await _for_each([emails[number % len(emails)] for number in range(count)], login)


async def show_to_sidecar(address: str, session_ids: Sequence[str]) -> None:
    """Validate each session once. Raises when one is not active."""
    async with grpc.aio.insecure_channel(address) as channel:
        validator = validator_pb2_grpc.ValidatorServiceStub(channel)

        async def validate(session_id: str) -> None:
            response = await validator.Validate(request_for(session_id), timeout=CALL_SECONDS)
            if response.WhichOneof("result") != "session":
                reason = types_pb2.DenialReason.Name(response.denial.reason)
                raise UnexpectedAnswerError(f"a session that was just created is denied: {reason}")

        await _for_each(session_ids, validate)


async def _for_each(items: Iterable[Item], do: Callable[[Item], Awaitable[Answer]]) -> list[Answer]:
    """Do it for all, a few at a time; the first error ends it."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def in_slot(item: Item) -> Answer:
        async with slots:
            return await do(item)

    tasks = [asyncio.create_task(in_slot(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
