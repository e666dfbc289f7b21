"""Who sends a request: what the app knows of every visitor, and the session of one who is logged in."""

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request

from accounts import cookies
from trustlayer import DenialReason, Mode, SessionDenied
from trustlayer.aio import Client
from trustlayer.v1 import types_pb2

ADMIN_ROLE: Final = "admin"
_MAX_USER_AGENT_BYTES: Final = 1_024


class NotLoggedInError(Exception):
    """The browser sent no session id: nobody was ever logged in, or they logged out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A request's sender. `session_id` and `device_id` are empty when the browser sent none."""

    session_id: str
    device_id: str
    client_ip: str
    user_agent: str

    @property
    def context(self) -> types_pb2.RequestContext:
        """What a login binds and a validation compares."""
        return types_pb2.RequestContext(
            client_ip=self.client_ip, device_fingerprint=self.device_id, user_agent=self.user_agent
        )


async def visitor(request: Request) -> Visitor:
    """Read what the browser sent. The address is the connection's; `__main__` says when a proxy is believed."""
    user_agent = request.headers.get("user-agent", "").encode()[:_MAX_USER_AGENT_BYTES]
    return Visitor(
        session_id=cookies.session_id(request),
        device_id=cookies.device_id(request),
        client_ip=request.client.host if request.client else "",
        user_agent=user_agent.decode(errors="ignore"),
    )


async def client(request: Request) -> Client:
    """Give the client of the sidecar's socket."""
    found: Client = request.app.state.client
    return found


async def _session(visitor: Visitor, client: Client, mode: Mode) -> types_pb2.Session:
    if not visitor.session_id:
        raise NotLoggedInError
    validation = await client.validate(
        visitor.session_id,
        mode=mode,
        client_ip=visitor.client_ip,
        device_fingerprint=visitor.device_id,
        user_agent=visitor.user_agent,
    )
    return validation.session


AnyVisitor = Annotated[Visitor, Depends(visitor)]
Sidecar = Annotated[Client, Depends(client)]


async def logged_in(visitor: AnyVisitor, client: Sidecar) -> types_pb2.Session:
    """Demand a session: STANDARD, so session and address. What it raises becomes a page in `errors`."""
    return await _session(visitor, client, Mode.STANDARD)


async def administrator(visitor: AnyVisitor, client: Sidecar) -> types_pb2.Session:
    """Demand a session in the very browser that logged in (STRICT), and the role."""
    session = await _session(visitor, client, Mode.STRICT)
    if ADMIN_ROLE not in session.user.roles:
        raise SessionDenied(DenialReason.ROLE_MISSING, "the role is missing")
    return session


LoggedIn = Annotated[types_pb2.Session, Depends(logged_in)]
Administrator = Annotated[types_pb2.Session, Depends(administrator)]
