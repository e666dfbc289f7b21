"""How answers are made: templates that escape everything, and headers that say what a browser may do with a page."""

from http import HTTPStatus
from pathlib import Path
from typing import Final

import jinja2
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accounts import cookies, csrf, requests, words

HERE: Final = Path(__file__).parent
HEADERS: Final = {
    # No script at all, style and pictures from here only, no frame around us, and forms that lead nowhere else.
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: with that, browsers send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
CHALLENGE: Final = {"www-authenticate": "Cookie"}
"""Goes with every 401 (RFC 9110). Browsers do not know the scheme and show the page, which has the way to log in."""

_HTTPS: Final = {"strict-transport-security": "max-age=31536000"}
# What somebody saw is not kept: not in a cache, and not for the button "back" after they have logged out.
_NOT_KEPT: Final = {"cache-control": "no-store"}

_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"exact": words.exact}


def page(
    request: Request,
    template: str,
    *,
    status: int = HTTPStatus.OK,
    headers: dict[str, str] | None = None,
    **values: object,
) -> HTMLResponse:
    """Render a page. Where a browser has no device id yet, a page that it asks for gives it one."""
    device_id, fresh = cookies.device_id(request), False
    if not device_id:
        device_id, fresh = cookies.new_device_id(), True
    session_id = requests.read(request).session_id or ""
    text = _TEMPLATES.get_template(template).render(
        csrf_token=csrf.token(device_id=device_id, session_id=session_id),
        **{"may_be_logged_in": bool(session_id), "path": request.url.path} | values,
    )
    response = HTMLResponse(text, status_code=status, headers=_NOT_KEPT | (headers or {}))
    # Never in answer to a form: one that another site sends comes without our cookies, and must not replace them.
    if fresh and request.method == "GET":
        cookies.set_device(response, device_id)
    return response


def see(path: str) -> RedirectResponse:
    """Send the browser to a page of ours, as after every form: so a reload repeats nothing."""
    return RedirectResponse(path, status_code=HTTPStatus.SEE_OTHER, headers=_NOT_KEPT)


def says_no(
    request: Request, why: words.Why, *, status: int, headers: dict[str, str] | None = None, retry: bool = False
) -> Response:
    """Say why not, on a page of its own."""
    nobody = {"may_be_logged_in": False} if status == HTTPStatus.UNAUTHORIZED else {}
    return page(request, "no.html", status=status, headers=headers, why=why, retry=retry, **nobody)


class SecurityHeaders:
    """Puts `HEADERS` on every answer, whoever made it."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._headers = HEADERS | (_HTTPS if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers)
