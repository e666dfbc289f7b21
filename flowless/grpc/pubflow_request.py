"""What a request of the Pubflow wire says beside its message: the headers that Envoy passes on and sets itself.

`deploy/envoy/flowless-rest.yaml` sets the last two, and removes what a client sent under their names.
"""

from typing import Final

from flowless.domain.fields import Fields
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import Context
from trust_core.modes import DENIAL_TEXT, DenialReason, RequestContext, ValidationMode

SESSION_HEADER: Final = "x-session-id"
DEVICE_HEADER: Final = "x-device-id"
COOKIE_HEADER: Final = "x-session-cookie"
CLIENT_IP_HEADER: Final = "x-client-ip"


def _values(context: Context, key: str) -> list[str]:
    return [value for name, value in context.invocation_metadata() or () if name == key and isinstance(value, str)]


def _only(context: Context, key: str) -> str:
    """Give a header's value; empty when it is absent or there twice: of two, nobody says which."""
    values = _values(context, key)
    return values[0] if len(values) == 1 else ""


def client_context(context: Context, *, device_id: str = "") -> RequestContext:
    """Say where a person's own request comes from: by Envoy's word the address, by their own the rest."""
    return RequestContext(
        client_ip=_only(context, CLIENT_IP_HEADER),
        device_fingerprint=device_id or _only(context, DEVICE_HEADER),
        user_agent=_only(context, "user-agent"),
    )


def session_id_of(context: Context, *named: str) -> str:
    """Find the session id. Errors: INVALID_FIELD for two that differ, SESSION_REFUSED for none."""
    given = {text for text in (*named, *_values(context, SESSION_HEADER)) if text}
    if len(given) > 1:
        fields = Fields()
        fields.add("session_id", "the same in query, body and header")
        fields.refuse()
    found = given.pop() if given else _only(context, COOKIE_HEADER)
    if not found:
        raise TrustError(Reason.SESSION_REFUSED, "the request names no session")
    return found


def session_refused(reason: DenialReason) -> TrustError:
    """Build the error for a session that is denied."""
    return TrustError(Reason.SESSION_REFUSED, DENIAL_TEXT[reason])


def asked_mode(text: str, least: ValidationMode | None) -> ValidationMode | None:
    """Take the stricter of what a call asks for and what the deployment does. Errors: INVALID_FIELD."""
    asked = ValidationMode.__members__.get(text.upper()) if text else None
    if text and asked is None:
        fields = Fields()
        fields.add("validation_mode", "standard, advanced or strict")
        fields.refuse()
    return max((mode for mode in (asked, least) if mode is not None), default=None)


def one_of(field: str, first: str, second: str) -> str:
    """Give the one that is there of two names for the same. Errors: INVALID_FIELD when they differ."""
    if first and second and first != second:
        fields = Fields()
        fields.add(field, "once, or the same under both names")
        fields.refuse()
    return first or second
