"""Flowless' side of `BridgeService` over a real Unix socket, whose answers and faults a test scripts.

It keeps to the protocol unless told otherwise: rows are delivered in order and before the pongs that vouch for
them, a validation reads session and revision in one step. It shares the test's event loop, so a test may change
anything between two awaits.
"""
# ruff: noqa: N802 - the proto names the methods

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration

from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import REVISION_KEY, Context, ErrorBoundary
from trust_core.identifiers import digest
from trust_core.modes import DenialReason, RequestContext, bind
from trustlayer.v1 import bridge_pb2, bridge_pb2_grpc, session_pb2, types_pb2

BROWSER = RequestContext(client_ip="203.0.113.7", device_fingerprint="device", user_agent="agent")
_KEY = b"k" * 32


class _Watcher:
    """One open stream: what is to be sent on it."""

    def __init__(self) -> None:
        self.outbox: asyncio.Queue[bridge_pb2.WatchRevocationsResponse | TrustError | None] = asyncio.Queue()
        self.start = bridge_pb2.WatchStart()
        self.pings: list[bridge_pb2.WatchPing] = []


class ScriptedFlowless(bridge_pb2_grpc.BridgeServiceServicer):
    """See the module. Attributes are the script; methods ending in `_calls` or lists are the record."""

    def __init__(self, *, path: Path, secret: str) -> None:
        self.address = f"unix:{path}"
        self.secrets = {secret}
        # What is true.
        self.log_id = "log-1"
        self.rows: list[bridge_pb2.Revocation] = []
        self.compacted_through = 0
        self.sessions: dict[str, bridge_pb2.CacheableSession | DenialReason] = {}
        # Faults.
        self.deaf = False
        self.delivers_rows = True
        self.lies_about_revision = 0
        self.validate_error: TrustError | None = None
        self.validate_aborts: list[tuple[grpc.StatusCode, str]] = []  # one for each call to come
        self.validate_gate = asyncio.Event()
        self.validate_gate.set()
        self.relay_error: TrustError | None = None
        self.relay_abort: tuple[grpc.StatusCode, str] | None = None
        self.relay_aborts: list[tuple[grpc.StatusCode, str]] = []
        """Each for one call, before `relay_abort`, which is for all."""
        self.relay_gate = asyncio.Event()
        self.relay_gate.set()
        self.activity_error: TrustError | None = None
        self.mismatch_error: TrustError | None = None
        # The record.
        self.mismatches: list[bridge_pb2.ReportMismatchRequest] = []
        self.validate_requests: list[bridge_pb2.ValidateSessionRequest] = []
        self.validate_request_ids: list[str] = []
        self.mismatch_request_ids: list[str] = []
        self.starts: list[bridge_pb2.WatchStart] = []
        self.activities: list[bridge_pb2.SessionActivity] = []
        self.relayed_metadata: list[dict[str, str]] = []
        self.relayed_seconds: list[float | None] = []
        self.relay_cancelled = asyncio.Event()
        self._watchers: list[_Watcher] = []
        self._server: grpc.aio.Server | None = None

    @property
    def pings(self) -> list[bridge_pb2.WatchPing]:
        """What came on the streams that are open."""
        return [ping for watcher in self._watchers for ping in watcher.pings]

    @property
    def revision(self) -> int:
        """The end of the log."""
        return len(self.rows)

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        """Listen; may be called again after `stop`. With credentials on TCP, and `address` says where."""
        self._server = grpc.aio.server(interceptors=(ErrorBoundary(program="scripted"),))
        bridge_pb2_grpc.add_BridgeServiceServicer_to_server(self, self._server)
        self._server.add_generic_rpc_handlers((self._session_service(),))
        if credentials is None:
            self._server.add_insecure_port(self.address)
        else:
            self.address = f"localhost:{self._server.add_secure_port('localhost:0', credentials)}"
        await self._server.start()

    async def stop(self) -> None:
        """Die at once, in the middle of everything."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        self._watchers.clear()

    async def ReportMismatch(
        self, request: bridge_pb2.ReportMismatchRequest, context: Context
    ) -> bridge_pb2.ReportMismatchResponse:
        """Revoke on the sidecar's word, which the real one does not take."""
        self._authenticate(context)
        self.mismatches.append(request)
        self.mismatch_request_ids.append(_sent_request_id(context))
        if self.mismatch_error is not None:
            raise self.mismatch_error
        return bridge_pb2.ReportMismatchResponse(revoked=True, revision=self.revoke_session(request.session_id))

    # What a test does to the truth.

    def add_session(
        self,
        session_id: str,
        *,
        user_id: str = "usr_1",
        seconds: float = 600,
        idle_seconds: float = 300,
        authenticated_seconds_ago: float = 0,
        roles: Sequence[str] = ("r0",),
    ) -> None:
        """Make an active session, bound to `BROWSER`."""
        binding = bind(BROWSER, _KEY)
        self.sessions[session_id] = bridge_pb2.CacheableSession(
            session=types_pb2.Session(handle=f"sh_{session_id[5:12]}", user=types_pb2.User(id=user_id, roles=roles)),
            binding=bridge_pb2.SessionBinding(
                client_ip=binding.client_ip,
                key=binding.key,
                device_fingerprint=binding.device_fingerprint,
                user_agent=binding.user_agent,
            ),
            absolute_remaining=_duration(seconds),
            idle_remaining=_duration(idle_seconds),
            authentication_age=_duration(authenticated_seconds_ago),
        )

    def revoke_session(self, session_id: str) -> int:
        """Revoke one session: the effect and the row in one step."""
        self.sessions[session_id] = DenialReason.REVOKED
        return self.append(bridge_pb2.Revocation(session_digest=digest(session_id)))

    def append(self, row: bridge_pb2.Revocation) -> int:
        """Write a row and deliver it, unless rows are held back."""
        row.revision = self.revision + 1
        self.rows.append(row)
        if self.delivers_rows:
            self.send(bridge_pb2.WatchRevocationsResponse(revocations=bridge_pb2.RevocationBatch(revocations=[row])))
        return row.revision

    def send(self, message: bridge_pb2.WatchRevocationsResponse) -> None:
        """Send something, true or not, on every stream."""
        for watcher in self._watchers:
            watcher.outbox.put_nowait(message)

    def cut_watchers(self, error: TrustError | None = None) -> None:
        """End every stream, with an error or in good order."""
        for watcher in self._watchers:
            watcher.outbox.put_nowait(error)

    @property
    def watchers(self) -> int:
        """Open streams."""
        return len(self._watchers)

    # What Flowless does.

    def _authenticate(self, context: Context) -> None:
        sent = dict(context.invocation_metadata() or ()).get("authorization", "")
        if sent not in {f"Bearer {secret}" for secret in self.secrets}:
            raise TrustError(Reason.BRIDGE_CREDENTIAL_REFUSED, "the bridge credential is refused")

    async def ValidateSession(
        self, request: bridge_pb2.ValidateSessionRequest, context: Context
    ) -> bridge_pb2.ValidateSessionResponse:
        self._authenticate(context)
        self.validate_requests.append(request)
        self.validate_request_ids.append(_sent_request_id(context))
        # The truth is read before the gate: a slow network delays what was read early.
        found = self.sessions.get(request.session_id, DenialReason.UNKNOWN)
        revision = self.lies_about_revision or self.revision
        await self.validate_gate.wait()
        if self.validate_aborts:
            await context.abort(*self.validate_aborts.pop(0))
        if self.validate_error is not None:
            raise self.validate_error
        if revision < request.min_revision and not self.lies_about_revision:
            raise TrustError(Reason.REVISION_NOT_REACHED, "not there yet")
        response = bridge_pb2.ValidateSessionResponse(
            freshness=types_pb2.Freshness(tier=types_pb2.TIER_DATABASE, revision=revision)
        )
        if isinstance(found, DenialReason):
            response.denial.reason = types_pb2.DenialReason.ValueType(found)
        else:
            response.active.CopyFrom(found)
        return response

    async def WatchRevocations(
        self, request_iterator: AsyncIterator[bridge_pb2.WatchRevocationsRequest], context: Context
    ) -> AsyncIterator[bridge_pb2.WatchRevocationsResponse]:
        self._authenticate(context)
        start = (await anext(request_iterator)).start
        self.starts.append(start)
        watcher = _Watcher()
        reset = start.log_id != self.log_id or not self.compacted_through <= start.last_revision <= self.revision
        after = self.revision if reset else start.last_revision
        if not self.deaf:
            ready = bridge_pb2.WatchReady(log_id=self.log_id, reset=reset, revision=after)
            watcher.outbox.put_nowait(bridge_pb2.WatchRevocationsResponse(ready=ready))
        if rows := self.rows[after:]:
            batch = bridge_pb2.RevocationBatch(revocations=rows)
            watcher.outbox.put_nowait(bridge_pb2.WatchRevocationsResponse(revocations=batch))
        self._watchers.append(watcher)
        pings = asyncio.create_task(self._answer_pings(request_iterator, watcher))
        try:
            while True:
                message = await watcher.outbox.get()
                if message is None:
                    return
                if isinstance(message, TrustError):
                    raise message
                yield message
        finally:
            pings.cancel()
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    async def _answer_pings(
        self, requests: AsyncIterator[bridge_pb2.WatchRevocationsRequest], watcher: _Watcher
    ) -> None:
        async for request in requests:
            if request.HasField("ping"):
                watcher.pings.append(request.ping)
            if self.deaf or not self.delivers_rows:
                continue
            pong = bridge_pb2.WatchPong(nonce=request.ping.nonce, revision=self.revision)
            watcher.outbox.put_nowait(bridge_pb2.WatchRevocationsResponse(pong=pong))

    async def ReportActivity(
        self, request: bridge_pb2.ReportActivityRequest, context: Context
    ) -> bridge_pb2.ReportActivityResponse:
        self._authenticate(context)
        if self.activity_error is not None:
            raise self.activity_error
        self.activities.extend(request.activities)
        return bridge_pb2.ReportActivityResponse(
            sessions=[
                bridge_pb2.SessionIdle(session_digest=used.session_digest, idle_remaining=_duration(300))
                for used in request.activities
            ]
        )

    async def PrewarmSessions(
        self, request: bridge_pb2.PrewarmSessionsRequest, context: Context
    ) -> AsyncIterator[bridge_pb2.PrewarmSessionsResponse]:
        self._authenticate(context)
        for _ in ():
            yield bridge_pb2.PrewarmSessionsResponse()
        raise TrustError(Reason.NOT_IMPLEMENTED, "not scripted")

    # Two relayed methods: one that makes a session, one that writes the log.

    def _session_service(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "trustlayer.v1.SessionService",
            {
                "Login": grpc.unary_unary_rpc_method_handler(
                    self.Login, session_pb2.LoginRequest.FromString, session_pb2.LoginResponse.SerializeToString
                ),
                "Logout": grpc.unary_unary_rpc_method_handler(
                    self.Logout, session_pb2.LogoutRequest.FromString, session_pb2.LogoutResponse.SerializeToString
                ),
            },
        )

    async def _relayed(self, context: Context) -> None:
        self._authenticate(context)
        self.relayed_metadata.append({key: str(value) for key, value in context.invocation_metadata() or ()})
        self.relayed_seconds.append(context.time_remaining())
        try:
            await self.relay_gate.wait()
        except asyncio.CancelledError:
            self.relay_cancelled.set()
            raise
        if self.relay_error is not None:
            raise self.relay_error
        if self.relay_aborts:
            await context.abort(*self.relay_aborts.pop(0))
        if self.relay_abort is not None:
            await context.abort(*self.relay_abort)

    async def Login(self, request: session_pb2.LoginRequest, context: Context) -> session_pb2.LoginResponse:
        await self._relayed(context)
        self.add_session(request.login)  # here the login name is the session id to be
        return session_pb2.LoginResponse(session_id=request.login)

    async def Logout(self, request: session_pb2.LogoutRequest, context: Context) -> session_pb2.LogoutResponse:
        await self._relayed(context)
        revision = self.revoke_session(request.session_id)
        context.set_trailing_metadata(((REVISION_KEY, str(revision)),))
        return session_pb2.LogoutResponse(revision=revision)


def _sent_request_id(context: Context) -> str:
    return str(dict(context.invocation_metadata() or ()).get("x-request-id", ""))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
