"""What of a request context callers may send."""

from flowless.domain.fields import Fields
from trust_core import modes
from trust_core.modes import RequestContext


def check_context(context: RequestContext, fields: Fields) -> None:
    """Note parts of a request context that are too long, and an address that is none."""
    if context.client_ip and modes.pack_ip(context.client_ip) is None:
        fields.add("context.client_ip", "an IPv4 or IPv6 address")
    fields.utf8("context.device_fingerprint", context.device_fingerprint, most=512)
    fields.utf8("context.user_agent", context.user_agent, most=1024)


def check_required_context(context: RequestContext, fields: Fields) -> None:
    """Note a context that is wrong or lacks the client IP: sessions are bound to it, attempts counted by it."""
    check_context(context, fields)
    if not context.client_ip:
        fields.add("context.client_ip", "required")
