"""Ask the sidecar on its Unix socket whether a session is valid, and call the Trust Layer's services through it.

`Client` is for threads and processes, `trustlayer.aio.Client` for asyncio. Middleware of frameworks is in `asgi`,
`wsgi`, `django` and `grpc_server`; the generated code of the standard is in `trustlayer.v1`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from trustlayer.client import Client
    from trustlayer.errors import (
        CallFailed,
        DenialReason,
        Failure,
        SessionDenied,
        TrustLayerError,
        ValidatorUnavailable,
    )
    from trustlayer.validation import Mode, Validation

__all__ = [
    "CallFailed",
    "Client",
    "DenialReason",
    "Failure",
    "Mode",
    "SessionDenied",
    "TrustLayerError",
    "Validation",
    "ValidatorUnavailable",
]

_HOMES: Final = {
    "Client": "client",
    "Mode": "validation",
    "Validation": "validation",
}


def __getattr__(name: str) -> Any:
    """Load a name when it is asked for: who wants the generated code alone, as the sidecar does, loads no more."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
