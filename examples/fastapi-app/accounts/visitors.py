"""Who sends a request: what the app knows of every visitor, and the session of one who is logged in."""

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request

from accounts import cookies, requests
from trustlayer import DenialReason, Mode, SessionDenied
from trustlayer.aio import Client
from trustlayer.v1 import types_pb2

ADMIN_ROLE: Final = "admin"
PUBLIC: Final = frozenset({"/", "/login", "/register", "/logout"})
"""The paths that need no session; `/` only leads on. Every other route needs one, whether it asks or not."""


class NotLoggedInError(Exception):
    """The browser sent no session id: nobody was ever logged in, or they logged out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A request's sender. `session_id` is `None` when the browser sent none, and empty when it sent what is none."""

    session_id: str | None
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
    """Read what the browser sent."""
    carried = requests.read(request)
    return Visitor(
        session_id=carried.session_id,
        device_id=cookies.device_id(request),
        client_ip=carried.client_ip,
        user_agent=carried.user_agent,
    )


async def client(request: Request) -> Client:
    """Give the client of the sidecar's socket."""
    found: Client = request.app.state.client
    return found


async def _session(visitor: Visitor, client: Client, mode: Mode) -> types_pb2.Session:
    if visitor.session_id is None:
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


async def admit(request: Request, visitor: AnyVisitor, client: Sidecar) -> types_pb2.Session | None:
    """Demand a session, STANDARD (so session and address), of every route that is not public. See `errors`.

    FastAPI runs it once for a request, before the route. The path is the one that chose the route: the text of a URL
    is partly the client's.
    """
    return None if request.scope["path"] in PUBLIC else await _session(visitor, client, Mode.STANDARD)


async def logged_in(admitted: Annotated[types_pb2.Session | None, Depends(admit)]) -> types_pb2.Session:
    """Give the session to a route that needs to know whose it is."""
    if admitted is None:
        raise NotLoggedInError
    return admitted


async def administrator(visitor: AnyVisitor, client: Sidecar) -> types_pb2.Session:
    """Demand a session in the very browser that logged in (STRICT), and the role, beyond what `admit` does."""
    session = await _session(visitor, client, Mode.STRICT)
    if ADMIN_ROLE not in session.user.roles:
        raise SessionDenied(DenialReason.ROLE_MISSING, "the role is missing")
    return session


LoggedIn = Annotated[types_pb2.Session, Depends(logged_in)]
Administrator = Annotated[types_pb2.Session, Depends(administrator)]
