"""A run through everything that the programs do with secrets, and everything that it wrote."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import bcrypt
import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from tests.support.flowless import BROWSER, Client, fresh_email, outcome
from tests.support.http_client import exchange
from tests.support.links import AUDIENCE, Links
from tests.support.processes import children
from tests.support.smtp import Mailbox, text_of
from tests.support.system import CALL_SECONDS, App
from tools.processes import FlowlessProcess, SidecarProcess
from trustlayer.pubflow.v1 import pubflow_pb2, pubflow_pb2_grpc
from trustlayer.v1 import (
    admin_pb2,
    bridge_pb2,
    identity_pb2,
    options_pb2,
    session_pb2,
    trust_token_pb2,
    types_pb2,
    validator_pb2,
)

REQUEST_ID: Final = "everything-1"
_ELSEWHERE: Final = types_pb2.RequestContext(client_ip="198.51.100.77", user_agent="another")
_MAIL: Final = trust_token_pb2.TRUST_TOKEN_DELIVERY_MAIL
_RIGHT: Final = "the right passphrase of Ada"
_NEW: Final = "another passphrase of Ada's"
_LATER: Final = "a third and better passphrase"
_WRONG: Final = "a guess that is not hers at all"
_MISTYPED: Final = "typed into the field for the name"
AS_LOGIN_NAME: Final = "typed as a login name"
"""Kind of secret that people type into the wrong field. It is looked up like any name: a parameter of a statement."""
_IMPORTED: Final = "brought along from elsewhere"
RULES: Final = """
[[routes]]
name = "vault"
match = ["GET /vault"]
mode = "strict"
on_mismatch = "revoke"

[[routes]]
name = "everything"
match = ["GET /app/**"]
"""


@dataclass
class Secrets:
    """What must be found nowhere, by a name that a failure can say."""

    known: dict[str, bytes] = field(default_factory=dict)

    def keep(self, name: str, secret: str | bytes) -> Any:
        """Remember one; hand it back."""
        assert secret, name
        self.known[f"{name} {len(self.known)}"] = secret.encode() if isinstance(secret, str) else secret
        return secret


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both programs, and who calls them. `admin` speaks to Flowless itself with every scope."""

    flowless: FlowlessProcess
    sidecar: SidecarProcess
    admin: Client
    channel: grpc.Channel
    app: App
    forward_auth_port: int
    mailbox: Mailbox


def traceparent() -> tuple[str, str]:
    """Metadata that makes a call recorded."""
    return ("traceparent", f"00-{'1f' * 16}-{'2e' * 8}-01")


_METADATA: Final = (traceparent(), ("x-request-id", REQUEST_ID))


def run_through(pair: Pair, secrets: Secrets) -> None:
    """Use every secret rightly, wrongly, and in places where it does not belong."""
    _sessions(pair, secrets)
    _passwords(pair, secrets)
    _trust_tokens(pair, secrets)
    _bridges(pair, secrets)
    _imports(pair, secrets)
    _proxies(pair, secrets)
    _pubflow(pair, secrets)


def _register(pair: Pair, password: str = _RIGHT) -> types_pb2.User:
    request = identity_pb2.RegisterUserRequest(email=fresh_email(), password=password, name="Ada")
    return pair.app.identity.RegisterUser(request, metadata=_METADATA, timeout=CALL_SECONDS).user


def _log_in(
    pair: Pair, secrets: Secrets, login: str, password: str = _RIGHT, *, name: str = "session id"
) -> session_pb2.LoginResponse:
    request = session_pb2.LoginRequest(login=login, password=password, context=BROWSER)
    answer = pair.app.sessions.Login(request, metadata=_METADATA, timeout=CALL_SECONDS)
    secrets.keep(name, answer.session_id)
    return answer


def _validate(pair: Pair, session_id: str, **fields: Any) -> validator_pb2.ValidateResponse:
    request = validator_pb2.ValidateRequest(**{"session_id": session_id, "context": BROWSER, **fields})
    return pair.app.validator.Validate(request, metadata=_METADATA, timeout=CALL_SECONDS)


def _sessions(pair: Pair, secrets: Secrets) -> None:
    user = _register(pair)
    first = _log_in(pair, secrets, user.email).session_id
    for _ in range(2):
        assert _validate(pair, first).HasField("session")
    _validate(pair, first, context=_ELSEWHERE, mode=types_pb2.VALIDATION_MODE_STRICT)
    _validate(pair, first, path="/vault", http_method="GET", context=_ELSEWHERE)  # revokes it
    second = _log_in(pair, secrets, user.email).session_id
    rotated = pair.app.sessions.RotateSession(
        session_pb2.RotateSessionRequest(session_id=second), metadata=_METADATA, timeout=CALL_SECONDS
    )
    third = secrets.keep("session id", rotated.session_id)
    again = pair.app.sessions.Reauthenticate(
        session_pb2.ReauthenticateRequest(session_id=third, password=_RIGHT, context=BROWSER),
        metadata=_METADATA,
        timeout=CALL_SECONDS,
    )
    if again.session_id:
        third = secrets.keep("session id", again.session_id)
    pair.admin.bridge.ValidateSession(bridge_pb2.ValidateSessionRequest(session_id=third), metadata=_METADATA)
    _misplaced(pair, user, third)
    listed = pair.app.sessions.ListSessions(
        session_pb2.ListSessionsRequest(user_id=user.id), metadata=_METADATA, timeout=CALL_SECONDS
    )
    assert listed.sessions
    pair.app.sessions.Logout(session_pb2.LogoutRequest(session_id=third), metadata=_METADATA, timeout=CALL_SECONDS)
    assert _validate(pair, third).denial.reason
    last = _log_in(pair, secrets, user.email)
    pair.admin.revoke_and_wait(last.session.handle)


def _misplaced(pair: Pair, user: types_pb2.User, secret: str) -> None:
    """Put a session id where others belong: what is refused must not be quoted."""
    for place in ("x-request-id", "traceparent", "x-other"):
        request = validator_pb2.ValidateRequest(session_id=secret, context=BROWSER)
        pair.app.validator.Validate(request, metadata=((place, secret),), timeout=CALL_SECONDS)
    almost = secret[:-1] + ("x" if secret[-1] != "x" else "y")
    wrong: list[Any] = [
        lambda: _validate(pair, almost),
        lambda: _validate(pair, f" {secret}"),
        lambda: _validate(pair, secret, route=secret),
        lambda: _validate(pair, secret, path=f"/app/{secret}?session_id={secret}", http_method="GET"),
        lambda: pair.admin.sessions.RevokeSession(session_pb2.RevokeSessionRequest(handle=secret)),
        lambda: pair.admin.identity.GetUser(identity_pb2.GetUserRequest(user_id=secret)),
        lambda: pair.admin.identity.GetUser(
            identity_pb2.GetUserRequest(user_id=user.id), metadata=(("x-request-id", secret), traceparent())
        ),
        lambda: pair.admin.sessions.Login(session_pb2.LoginRequest(login="x", password=secret, context=BROWSER)),
        lambda: pair.admin.tokens.CheckTrustToken(
            trust_token_pb2.CheckTrustTokenRequest(token=secret, purpose="magic_link", audience=AUDIENCE)
        ),
        lambda: Client(pair.admin.channel, secret).validate(secret),
    ]
    for call in wrong:
        outcome(call)


def _passwords(pair: Pair, secrets: Secrets) -> None:
    for name, password in (("right", _RIGHT), ("new", _NEW), ("later", _LATER), ("wrong", _WRONG)):
        secrets.keep(f"{name} password", password)
    user = _register(pair)
    misplaced = _log_in(pair, secrets, user.email, name=AS_LOGIN_NAME).session_id
    secrets.keep(AS_LOGIN_NAME, _MISTYPED)
    for login, password in (
        (user.email, _WRONG),
        ("nobody@example.org", _WRONG),
        (_MISTYPED, _WRONG),
        (misplaced, _WRONG),
    ):
        request = session_pb2.LoginRequest(login=login, password=password, context=BROWSER)
        log_in = partial(pair.app.sessions.Login, request, metadata=_METADATA, timeout=CALL_SECONDS)
        assert outcome(log_in)[0] != "OK"
    session_id = _log_in(pair, secrets, user.email).session_id
    for current in (_WRONG, _RIGHT):
        change = identity_pb2.ChangePasswordRequest(
            user_id=user.id, current_password=current, new_password=_NEW, session_id=session_id, context=BROWSER
        )
        with suppress(grpc.RpcError):
            changed = pair.app.identity.ChangePassword(change, metadata=_METADATA, timeout=CALL_SECONDS)
            if getattr(changed, "session_id", ""):
                secrets.keep("session id", changed.session_id)
    _log_in(pair, secrets, user.email, _NEW)


def _trust_tokens(pair: Pair, secrets: Secrets) -> None:
    links = Links(pair.admin)
    user = _register(pair)
    token = secrets.keep("trust token", links.issue("magic_link", user.email))
    links.check(token, "magic_link")
    secrets.keep("session id", links.log_in(token).session_id)
    outcome(lambda: links.log_in(token))
    outcome(lambda: links.log_in(token[:-3]))
    links.reset(secrets.keep("trust token", links.issue("password_reset", user.email)), _LATER)
    outcome(lambda: links.consume(secrets.keep("trust token", links.issue("invitation", "new@example.org")), "other"))
    before = len(pair.mailbox.taken)
    links.issued("magic_link", user.email, delivery=_MAIL)
    mails = pair.mailbox.wait_for(before + 1)
    mailed = text_of(mails[-1]).partition("token=")[2].split()[0]
    secrets.keep("session id", links.log_in(secrets.keep("trust token", mailed)).session_id)
    pair.admin.admin.RotateSigningKey(admin_pb2.RotateSigningKeyRequest())


def _bridges(pair: Pair, secrets: Secrets) -> None:
    admin = pair.admin.admin
    made = admin.CreateBridge(
        admin_pb2.CreateBridgeRequest(name="another", scopes=[options_pb2.SCOPE_VALIDATE]), metadata=_METADATA
    )
    first = secrets.keep("bridge secret", made.secret)
    rotated = admin.RotateBridgeSecret(
        admin_pb2.RotateBridgeSecretRequest(bridge_id=made.bridge.id), metadata=_METADATA
    )
    second = secrets.keep("bridge secret", rotated.secret)
    for secret in (first, second, second[:-1] + "0"):
        outcome(Client(pair.admin.channel, secret).new_session)
    pair.admin.admin.BindBridge(
        admin_pb2.BindBridgeRequest(bridge_id=made.bridge.id, client_id="app.example.org"), metadata=_METADATA
    )
    outcome(lambda: Client(pair.admin.channel, second).validate("nonsense"))
    # A bridge secret where an app's own words stand.
    outcome(lambda: _validate(pair, second))
    admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=made.bridge.id), metadata=_METADATA)
    outcome(lambda: Client(pair.admin.channel, second).validate("nonsense"))


def _imports(pair: Pair, secrets: Secrets) -> None:
    secrets.keep("imported password", _IMPORTED)
    foreign = bcrypt.hashpw(_IMPORTED.encode(), bcrypt.gensalt(4)).decode()
    email = fresh_email()
    users = [
        identity_pb2.ImportedUser(number=1, email=email, password_hash=foreign),
        identity_pb2.ImportedUser(number=2, email=_IMPORTED, password_hash=_IMPORTED),
    ]
    list(pair.admin.identity.ImportUsers(iter([identity_pb2.ImportUsersRequest(users=users)])))
    outcome(lambda: _log_in(pair, secrets, email, _WRONG))
    _log_in(pair, secrets, email, _IMPORTED)


def _proxies(pair: Pair, secrets: Secrets) -> None:
    user = _register(pair)
    session_id = _log_in(pair, secrets, user.email).session_id
    stub: Any = external_auth_pb2_grpc.AuthorizationStub(pair.channel)
    for cookie in (f"session_id={session_id}", f"session_id={session_id}x", ""):
        for path in ("/app/x", f"/app/{session_id}?s={session_id}", "/nowhere", "/vault"):
            check = external_auth_pb2.CheckRequest()
            http = check.attributes.request.http
            http.method, http.path = "GET", path
            headers = {"cookie": cookie, "x-request-id": session_id, "user-agent": "agent"}
            http.headers.update({**headers, "authorization": f"Bearer {session_id}"})
            check.attributes.source.address.socket_address.address = BROWSER.client_ip
            stub.Check(check, metadata=_METADATA, timeout=CALL_SECONDS)
            sent = [
                *headers.items(), ("x-forwarded-method", "GET"), ("x-forwarded-uri", path),
                ("x-forwarded-for", BROWSER.client_ip), traceparent(),
            ]  # fmt: skip
            exchange(pair.forward_auth_port, "GET", "/forward-auth", sent)


def _pubflow(pair: Pair, secrets: Secrets) -> None:
    user = _register(pair)
    stub = pubflow_pb2_grpc.PubflowServiceStub(pair.admin.channel)
    credential = (("authorization", f"Bearer {pair.admin.secret}"), *_METADATA)
    session_id = _log_in(pair, secrets, user.email).session_id
    for sent in (session_id, session_id[:-1]):
        request = pubflow_pb2.ValidateBridgeSessionRequest(
            session_id=sent, body=pubflow_pb2.BridgeValidation(ip_address=BROWSER.client_ip)
        )
        outcome(partial(stub.ValidateBridgeSession, request, metadata=credential, timeout=CALL_SECONDS))
        named = (*credential, ("x-session-id", sent))
        outcome(partial(stub.GetMe, pubflow_pb2.GetMeRequest(), metadata=named, timeout=CALL_SECONDS))


def told_by_processes(pair: Pair) -> Mapping[str, bytes]:
    """Command lines and environments of both programs and of what they have started."""
    return {
        f"/proc/{name}/{what}": Path(f"/proc/{pid}/{what}").read_bytes()
        for root in (pair.flowless.pid, pair.sidecar.pid)
        for name, pid in ((f"{root}-{each}", each) for each in (root, *children(root)))
        for what in ("cmdline", "environ")
    }


def told_by_commands(pair: Pair) -> Mapping[str, bytes]:
    """What an operator is shown."""
    shown = {
        " ".join(command): pair.flowless.run_command(*command).encode()
        for command in (("bridges", "list", "--json"), ("audit", "export"), ("keys", "list", "--json"))
    }
    return shown | {"sidecar status": pair.sidecar.run_command("status", "--json").encode()}


def metrics_of(log: Path) -> bytes:
    """Body of the metrics of a program, whose log says where they are."""
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "metrics":
            with urlopen(f"http://{event['address']}/metrics", timeout=CALL_SECONDS) as answer:
                body: bytes = answer.read()
                return body
    raise AssertionError(f"no metrics in {log}")


def wait_until_sent(condition: Any, within: timedelta = timedelta(seconds=20)) -> None:
    """Wait for what happens a moment later."""
    deadline = time.monotonic() + within.total_seconds()
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
