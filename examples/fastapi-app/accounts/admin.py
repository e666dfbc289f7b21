"""The page that needs STRICT and the role `admin`: how the sidecar is."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from accounts.pages import page
from accounts.visitors import Administrator, Sidecar
from trustlayer.v1.validator_pb2 import GetStatusRequest

router = APIRouter()


@router.get("/admin")
async def admin(request: Request, session: Administrator, client: Sidecar) -> Response:
    """Show figures of the sidecar, which hold no secret and no session."""
    status = await client.validator.GetStatus(GetStatusRequest())
    figures = {
        "Lease held": "yes" if status.lease_held else "no",
        "Longest staleness": f"{status.max_staleness.ToTimedelta().total_seconds():g} s",
        "Sessions in memory": f"{status.cached_sessions:,}",
        "Answers from memory": f"{status.hits:,}",
        "Answers that needed Flowless": f"{status.misses:,}",
        "Questions without an answer": f"{status.unavailable:,}",
        "Revision": f"{status.applied_revision:,}",
        "Version": status.version,
    }
    return page(request, "admin.html", user=session.user, figures=figures)
