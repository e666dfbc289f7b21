"""The client of asyncio."""

from types import TracebackType
from typing import Self

from trustlayer._aio_channel import LoopChannel
from trustlayer._calls import DEFAULT_CALL_TIMEOUT, DEFAULT_TIMEOUT, target_of
from trustlayer.errors import CallFailed
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub
from trustlayer.v1.trust_token_pb2_grpc import TrustTokenServiceStub
from trustlayer.v1.validator_pb2_grpc import ValidatorServiceStub
from trustlayer.validation import Mode, Validation, no_verdict, question, verdict


class Client:
    """What an app has of the Trust Layer, with asyncio: the sidecar's socket.

    Make one for the whole program, at import if you like: it connects at its first call, in each event loop of each
    process by itself, and again whenever the sidecar was away. The stubs (`identity`, `sessions`, `trust_tokens`,
    `validator`) are the generated ones; their calls are awaited, have a deadline, and raise `CallFailed`. Who is
    cancelled while waiting gets `asyncio.CancelledError`, and the call is cancelled too.
    """

    def __init__(
        self, socket: str, *, timeout: float = DEFAULT_TIMEOUT, call_timeout: float = DEFAULT_CALL_TIMEOUT
    ) -> None:
        """`socket` is a path. Deadlines in seconds: `timeout` of validations, `call_timeout` of what is relayed."""
        self._channel = LoopChannel(target_of(socket), timeout=timeout, call_timeout=call_timeout)
        self.validator = ValidatorServiceStub(self._channel)
        self.identity = IdentityServiceStub(self._channel)
        self.sessions = SessionServiceStub(self._channel)
        self.trust_tokens = TrustTokenServiceStub(self._channel)

    async def validate(
        self,
        session_id: str,
        *,
        mode: Mode = Mode.DEFAULT,
        client_ip: str = "",
        device_fingerprint: str = "",
        user_agent: str = "",
        min_revision: int = 0,
        route: str = "",
        http_method: str = "",
        path: str = "",
        timeout: float | None = None,
    ) -> Validation:
        """Say whether the session is valid for this request. `timeout` in seconds.

        Raises `SessionDenied`, a definite no; `ValidatorUnavailable`, when nobody can know, which includes a deadline
        that passed; `CallFailed`, when the question itself is wrong. What the words mean is in the standard's
        `ValidateRequest`.
        """
        request = question(
            session_id,
            mode=mode,
            client_ip=client_ip,
            device_fingerprint=device_fingerprint,
            user_agent=user_agent,
            min_revision=min_revision,
            route=route,
            http_method=http_method,
            path=path,
        )
        try:
            answer = await self.validator.Validate(request, timeout=timeout)
        except CallFailed as error:
            raise no_verdict(error) from error.__cause__
        return verdict(answer)

    async def close(self) -> None:
        """Close the running loop's connection. Calls after that, and those in flight, fail as unavailable."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
