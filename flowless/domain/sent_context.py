"""Compare what a caller sends of a request's context, beyond the mode that is asked for.

Callers of the standard say which mode they want. Backends that were written for another wire send what they have and
say nothing: then whatever is sent and was bound at login has to be the same, and what is missing is not asked for.
"""

from dataclasses import replace
from typing import Final

from trust_core import modes
from trust_core.modes import Binding, DenialReason, IpPrefixes, RequestContext, ValidationMode

_FILLER: Final = RequestContext(client_ip="0.0.0.0", device_fingerprint="-", user_agent="-")


def check_sent(
    mode: ValidationMode | None, binding: Binding, context: RequestContext, prefixes: IpPrefixes
) -> DenialReason | None:
    """Check the mode as ever, and whatever is sent beyond it; `None` lets the request pass."""
    if mode is not None:
        reason = modes.check(mode, binding, context, prefixes)
        if reason is not None:
            return reason
    # The one rule that compares contexts is asked for everything; parts that cannot be compared are made equal first.
    filler = modes.bind(_FILLER, binding.key)
    for part in ("client_ip", "device_fingerprint", "user_agent"):
        if not (getattr(context, part) and getattr(binding, part)):
            context = replace(context, **{part: getattr(_FILLER, part)})
            binding = replace(binding, **{part: getattr(filler, part)})
    return modes.check(ValidationMode.STRICT, binding, context, prefixes)
