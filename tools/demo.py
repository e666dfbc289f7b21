"""`make demo`: the main job, walked by an app that has one socket, the generated stubs and no secret.

Everything is real: two processes, a database file, a Unix socket, the default password hash. Every step is
checked as it is shown; the first that is not as expected ends the demo with a non-zero exit code and its name.
"""

import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from tools import terminal
from tools.lease import wait_for_lease
from tools.processes import (
    FlowlessProcess,
    ProcessError,
    SidecarProcess,
    exit_on_sigterm,
    last_lines,
    temporary_directory,
)
from trust_core.grpc_edge import reason_of
from trust_core.identifiers import new_session_id
from trustlayer.v1 import identity_pb2, session_pb2, trust_token_pb2, types_pb2, validator_pb2
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub
from trustlayer.v1.trust_token_pb2_grpc import TrustTokenServiceStub
from trustlayer.v1.validator_pb2_grpc import ValidatorServiceStub

T = TypeVar("T")

MAX_STALENESS_SECONDS: Final = 2.0
CALL_SECONDS: Final = 10.0
HITS: Final = 1_000
EMAIL: Final = "ada@example.org"
BROWSER: Final = types_pb2.RequestContext(
    client_ip="203.0.113.7", device_fingerprint="demo-device", user_agent="Mozilla/5.0 (demo)"
)


class UnexpectedError(Exception):
    """A step did not end as the product promises."""


def expect(holds: bool, promised: str, got: object) -> None:
    """Raise when a promise does not hold."""
    if not holds:
        raise UnexpectedError(f"expected {promised}, got {str(got).strip() or 'nothing'}")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return what the call returned, and how many milliseconds it took."""
    begin = time.perf_counter()
    result = call()
    return result, (time.perf_counter() - begin) * 1_000


class App:
    """What an app does on the sidecar's socket, and all that it has for it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.identity = IdentityServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.tokens = TrustTokenServiceStub(channel)
        self.validator = ValidatorServiceStub(channel)

    def validate(self, session_id: str) -> validator_pb2.ValidateResponse:
        """Ask whether the session is active for a request of the demo's browser."""
        request = validator_pb2.ValidateRequest(
            session_id=session_id, mode=types_pb2.VALIDATION_MODE_STRICT, context=BROWSER
        )
        return self.validator.Validate(request, timeout=CALL_SECONDS)

    def status(self) -> validator_pb2.GetStatusResponse:
        """Ask the sidecar how it is."""
        return self.validator.GetStatus(validator_pb2.GetStatusRequest(), timeout=CALL_SECONDS)

    def log_in(self, password: str) -> session_pb2.LoginResponse:
        """Log the demo's user in."""
        request = session_pb2.LoginRequest(login=EMAIL, password=password, context=BROWSER, device_name="demo")
        return self.sessions.Login(request, timeout=CALL_SECONDS)


class Demo:
    """The steps, in their order. `step` is the one under way; each prints its row when it is done."""

    def __init__(self, *, app: App, elsewhere: SessionServiceStub, elsewhere_secret: str) -> None:
        """`elsewhere` speaks to Flowless directly, past the sidecar, with another bridge's secret."""
        self.step = ""
        self._app = app
        self._elsewhere = elsewhere
        self._elsewhere_credential = (("authorization", f"Bearer {elsewhere_secret}"),)
        self._password = secrets.token_urlsafe(18)
        self._table = terminal.Table(titles=("step", "result", "tier", "time"), widths=(46, 38, 8, 10))

    def run(self) -> None:
        """Walk all steps; raises `UnexpectedError` with the name of the first that is not as expected."""
        try:
            self._walk()
        except UnexpectedError as error:
            raise UnexpectedError(f"step `{self.step}`: {error}") from error
        except grpc.RpcError as error:
            raise UnexpectedError(f"step `{self.step}`: {describe(error)}") from error

    def _walk(self) -> None:
        user_id = self._register()
        session_id = self._log_in()
        self._validate(session_id, "validate: nobody has seen this session", types_pb2.TIER_DATABASE)
        self._validate(session_id, "validate again: the sidecar remembers", types_pb2.TIER_LRU)
        self._refuse_forged(session_id)
        self._refuse_unknown()
        hits = self._measure_hits(session_id)
        self._change_roles(user_id, session_id)
        revoke_milliseconds = self._revoke_elsewhere()
        self._log_out(session_id)
        self._follow_link()
        median, p99 = statistics.median(hits), statistics.quantiles(hits, n=100)[98]
        print()
        print(f"hit on the socket    median {median:.2f} ms, p99 {p99:.2f} ms, over {len(hits):,} validations")
        print(
            f"revoke to refusal    {revoke_milliseconds:.1f} ms (bound: {MAX_STALENESS_SECONDS:g} s, whatever fails)"
        )

    def _register(self) -> str:
        self.step = "register a user"
        request = identity_pb2.RegisterUserRequest(email=EMAIL, password=self._password, name="Ada", roles=["reader"])
        answer, milliseconds = timed(lambda: self._app.identity.RegisterUser(request, timeout=CALL_SECONDS))
        expect(list(answer.user.roles) == ["reader"], "a user with the role `reader`", answer)
        self._show(answer.user.id, milliseconds)
        return answer.user.id

    def _log_in(self, step: str = "log in: the browser gets an opaque id") -> str:
        self.step = step
        answer, milliseconds = timed(lambda: self._app.log_in(self._password))
        expect(answer.session_id.startswith("sess_"), "a session id", type(answer))
        self._show(f"session {answer.session.handle}", milliseconds)
        return answer.session_id

    def _validate(self, session_id: str, step: str, tier: types_pb2.Tier.ValueType) -> types_pb2.Session:
        self.step = step
        answer, milliseconds = timed(lambda: self._app.validate(session_id))
        expect(answer.HasField("session"), "ACTIVE", answer)
        expect(answer.freshness.tier == tier, f"tier {types_pb2.Tier.Name(tier)}", answer.freshness)
        self._show(f"ACTIVE, roles: {', '.join(answer.session.user.roles)}", milliseconds, answer)
        return answer.session

    def _refuse_forged(self, session_id: str) -> None:
        self.step = "a forged id: right form, wrong checksum"
        forged = session_id[:-1] + ("0" if session_id[-1] != "0" else "1")
        before = self._app.status().upstream_calls
        answer, milliseconds = timed(lambda: self._app.validate(forged))
        expect(answer.denial.reason == types_pb2.DENIAL_REASON_MALFORMED, "DENIED: MALFORMED", answer)
        asked = self._app.status().upstream_calls - before
        expect(asked == 0, "no call to Flowless", f"{asked} calls")
        self._show(f"{denial(answer)}, Flowless not asked", milliseconds, answer)

    def _refuse_unknown(self) -> None:
        self.step = "a guessed id: well formed, never issued"
        guessed = new_session_id(os.urandom)
        answer, milliseconds = timed(lambda: self._app.validate(guessed))
        expect(answer.denial.reason == types_pb2.DENIAL_REASON_UNKNOWN, "DENIED: UNKNOWN", answer)
        self._show(denial(answer), milliseconds, answer)

    def _measure_hits(self, session_id: str) -> list[float]:
        self.step = f"validate {HITS:,} times"
        hits = []
        for _ in range(HITS):
            answer, milliseconds = timed(lambda: self._app.validate(session_id))
            expect(answer.HasField("session"), "ACTIVE", answer)
            expect(answer.freshness.tier == types_pb2.TIER_LRU, "tier LRU", answer.freshness)
            hits.append(milliseconds)
        self._show("ACTIVE, time: median", statistics.median(hits), answer)
        return hits

    def _change_roles(self, user_id: str, session_id: str) -> None:
        self.step = "roles changed: seen at the socket after"
        roles = ["reader", "writer"]
        request = identity_pb2.UpdateUserRequest(
            user_id=user_id, user=types_pb2.User(roles=roles), update_mask=FieldMask(paths=["roles"])
        )
        self._app.identity.UpdateUser(request, timeout=CALL_SECONDS)
        answer, milliseconds = self._poll(session_id, lambda seen: list(seen.session.user.roles) == roles)
        self._show(f"ACTIVE, roles: {', '.join(answer.session.user.roles)}", milliseconds, answer)

    def _revoke_elsewhere(self) -> float:
        session_id = self._log_in("log in again, on a second device")
        self._validate(session_id, "validate the second session", types_pb2.TIER_DATABASE)
        session = self._validate(session_id, "validate it again", types_pb2.TIER_LRU)
        self.step = "revoked by another bridge: refused after"
        self._elsewhere.RevokeSession(
            session_pb2.RevokeSessionRequest(handle=session.handle),
            metadata=self._elsewhere_credential,
            timeout=CALL_SECONDS,
        )
        answer, milliseconds = self._poll(session_id, lambda seen: seen.HasField("denial"))
        expect(answer.denial.reason == types_pb2.DENIAL_REASON_REVOKED, "DENIED: REVOKED", answer)
        self._show(denial(answer), milliseconds, answer)
        return milliseconds

    def _log_out(self, session_id: str) -> None:
        self.step = "log out on the socket: refused at once"
        self._app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id), timeout=CALL_SECONDS)
        answer, milliseconds = timed(lambda: self._app.validate(session_id))
        expect(answer.denial.reason == types_pb2.DENIAL_REASON_REVOKED, "DENIED: REVOKED", answer)
        self._show(denial(answer), milliseconds, answer)

    def _follow_link(self) -> None:
        self.step = "log in by a link"
        issued = self._app.tokens.IssueTrustToken(
            trust_token_pb2.IssueTrustTokenRequest(
                purpose="magic_link", subject=EMAIL, audience="demo", lifetime=Duration(seconds=60)
            ),
            timeout=CALL_SECONDS,
        )
        request = session_pb2.LoginWithTrustTokenRequest(token=issued.token, audience="demo", context=BROWSER)
        answer, milliseconds = timed(lambda: self._app.sessions.LoginWithTrustToken(request, timeout=CALL_SECONDS))
        expect(answer.session.user.email_verified, "a session, and the address proven", answer)
        self._show(answer.session.handle, milliseconds)
        self.step = "follow the same link again"
        begin = time.perf_counter()
        try:
            answer = self._app.sessions.LoginWithTrustToken(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            reason = reason_of(error)
        else:
            raise UnexpectedError(f"a spent token was redeemed again: {answer}")
        expect(reason == "TRUST_TOKEN_REFUSED", "TRUST_TOKEN_REFUSED", reason)
        self._show(f"refused: {reason}", (time.perf_counter() - begin) * 1_000)

    def _poll(
        self, session_id: str, seen: Callable[[validator_pb2.ValidateResponse], bool]
    ) -> tuple[validator_pb2.ValidateResponse, float]:
        """Validate until the change is seen; return the answer and the milliseconds since the change returned."""
        changed = time.perf_counter()
        while True:
            asked = time.perf_counter()
            answer = self._app.validate(session_id)
            if seen(answer):
                return answer, (time.perf_counter() - changed) * 1_000
            expect(asked - changed < MAX_STALENESS_SECONDS, f"a change within {MAX_STALENESS_SECONDS:g} s", answer)

    def _show(self, result: str, milliseconds: float, answer: validator_pb2.ValidateResponse | None = None) -> None:
        tier = "" if answer is None else types_pb2.Tier.Name(answer.freshness.tier).removeprefix("TIER_")
        self._table.row(self.step, result, tier, f"{milliseconds:.2f} ms")


def denial(answer: validator_pb2.ValidateResponse) -> str:
    """Name the reason of a denial."""
    return f"DENIED: {types_pb2.DenialReason.Name(answer.denial.reason).removeprefix('DENIAL_REASON_')}"


def describe(error: grpc.RpcError) -> str:
    """Code and message of a call that failed."""
    call = cast("grpc.Call", error)  # what a stub raises is both
    return f"{call.code().name}: {call.details()}"


def walk(directory: Path) -> None:
    """Start both programs in the directory and walk the steps."""
    with ExitStack() as stack:
        flowless = stack.enter_context(FlowlessProcess(directory=directory))
        flowless.create_signing_keys()
        elsewhere = flowless.create_bridge("demo-elsewhere", scopes=["sessions"])
        sidecar = stack.enter_context(
            SidecarProcess(
                directory=directory,
                upstream=flowless.address,
                secret=flowless.create_bridge("demo-sidecar").secret,
                max_staleness_seconds=MAX_STALENESS_SECONDS,
            )
        )
        app = App(stack.enter_context(grpc.insecure_channel(sidecar.address)))
        wait_for_lease(app.validator, log=sidecar.log)
        direct = SessionServiceStub(stack.enter_context(grpc.insecure_channel(flowless.address)))
        Demo(app=app, elsewhere=direct, elsewhere_secret=elsewhere.secret).run()


def main() -> int:
    """Run the demo in a temporary directory; return the exit code."""
    exit_on_sigterm()
    print(
        "Trust Layer: an app asks the Unix socket beside it whether a session is valid.\n"
        "Starting Flowless and a sidecar, two processes, in a temporary directory …\n",
        flush=True,
    )
    with temporary_directory() as directory:
        try:
            walk(directory)
        except (ProcessError, UnexpectedError) as error:
            print(terminal.paint(f"FAILED: {error}", terminal.RED, stream=sys.stderr), file=sys.stderr)
            for log in sorted(directory.glob("*.log")) if isinstance(error, UnexpectedError) else ():
                print(f"\nend of {log.name}:\n{last_lines(log)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
    print(terminal.paint("\nEvery step was as expected.", terminal.GREEN))
    print("Go on: `make run` leaves both programs running, with commands to try; README.md tells the rest.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
