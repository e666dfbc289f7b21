"""Middleware of Django, and decorators of its views.

    MIDDLEWARE = ["trustlayer.django.TrustLayerMiddleware", ...]
    TRUST_LAYER = {"socket": "/run/bridge-sidecar/bridge.sock"}

Views are called with a session, or not at all, unless they are `public`. It is `request.trust_session`
(`request.session` is Django's own). The other settings are those of `RequestReader`, and `timeout` in seconds.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from trustlayer.client import Client
from trustlayer.guard import PUBLIC, Need, Refused
from trustlayer.http_requests import RequestReader
from trustlayer.validation import Mode
from trustlayer.wsgi import Guarded, carried

__all__ = ["TrustLayerMiddleware", "public", "requires"]

View = TypeVar("View", bound=Callable[..., Any])

_NEED: Final = "_trust_layer_need"
_CLIENT_SETTINGS: Final = ("socket", "timeout", "call_timeout")


class TrustLayerMiddleware:
    """See the module. Of the synchronous kind: Django runs it in a thread where the app is asynchronous."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        """Read `settings.TRUST_LAYER`. Raises `ImproperlyConfigured`."""
        self._get_response = get_response
        wanted: dict[str, Any] = dict(getattr(settings, "TRUST_LAYER", {}))
        try:
            self.client = Client(**{name: wanted.pop(name) for name in _CLIENT_SETTINGS if name in wanted})
            self._reader = RequestReader(**wanted)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"TRUST_LAYER: {error}") from error

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Go on: what the request needs is known once Django knows its view."""
        return self._get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], _args: Sequence[Any], _kwargs: dict[str, Any]
    ) -> HttpResponse | None:
        """Validate for the view. Django calls this before it, and sends what is returned instead."""
        need = _need_of(view) or _need_of(getattr(view, "view_class", None)) or Need()
        guarded = Guarded(self.client, carried(self._reader, request.META))
        try:
            request.trust_session = guarded.session_for(need)
        except Refused as refused:
            return HttpResponse(refused.body, status=int(refused.status), headers=dict(refused.headers))
        return None


def requires(
    *, mode: Mode = Mode.DEFAULT, route: str = "", roles_any: Sequence[str] = (), optional: bool = False
) -> Callable[[View], View]:
    """Say what a view needs, a function or a class; outermost of its decorators. See `Need` for the words.

    Raises `ImproperlyConfigured` for a view that was told before.
    """
    return _mark(Need(mode=mode, route=route, roles_any=tuple(roles_any), optional=optional))


def public(view: View) -> View:
    """Say that a view needs no session; outermost of its decorators."""
    return _mark(PUBLIC)(view)


def _need_of(view: object) -> Need | None:
    """Find what the view itself was told. A class does not inherit it: what extends a public view is not public."""
    need: Need | None = getattr(view, "__dict__", {}).get(_NEED)
    return need


def _mark(need: Need) -> Callable[[View], View]:
    def mark(view: View) -> View:
        if _NEED in vars(view):
            raise ImproperlyConfigured(f"{view.__name__} was told before what it needs: wrap it in another view")
        setattr(view, _NEED, need)
        return view

    return mark
