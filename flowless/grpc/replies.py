"""What several servicers say in the same way."""

from typing import NoReturn

from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import REVISION_KEY, Context


def wrote(context: Context, revision: int) -> int:
    """Note in the trailing metadata which revision the call wrote, for relays that do not parse answers."""
    context.set_trailing_metadata(((REVISION_KEY, str(revision)),))
    return revision


def not_implemented(method: str) -> NoReturn:
    """Refuse an RPC that is declared and not built yet."""
    raise TrustError(Reason.NOT_IMPLEMENTED, f"{method} is declared and not built yet; see the README")
