"""Middleware of Django, and decorators of its views.

    MIDDLEWARE = ["trustlayer.django.TrustLayerMiddleware", ...]
    TRUST_LAYER = {"socket": "/run/bridge-sidecar/bridge.sock"}

Views are called with a session, or not at all, unless they are `public`. It is `request.trust_session`
(`request.session` is Django's own). What no view serves, but another middleware, is not guarded. The other settings
are those of `RequestReader`, and `timeout` in seconds.
"""

import functools
from collections.abc import Callable, Collection, Sequence
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
        guarded = Guarded(self.client, carried(self._reader, request.META))
        try:
            for need in _needs_of(view) or [Need()]:
                request.trust_session = guarded.session_for(need)
        except Refused as refused:
            return HttpResponse(refused.body, status=int(refused.status), headers=dict(refused.headers))
        return None


def requires(
    *,
    mode: Mode = Mode.DEFAULT,
    route: str = "",
    roles_any: Collection[str] | None = None,
    roles_all: Collection[str] | None = None,
    optional: bool = False,
) -> Callable[[View], View]:
    """Say what a view needs, a function or a class; outermost of its decorators. See `Need` for the words.

    What extends a class needs the same, unless it says otherwise itself; that no session is needed is not inherited.
    Raises `ImproperlyConfigured` for a view that was told before, and `ValueError` as `Need` does.
    """
    return _mark(Need(mode=mode, route=route, roles_any=roles_any, roles_all=roles_all, optional=optional))


def public(view: View) -> View:
    """Say that a view needs no session; outermost of its decorators."""
    return _mark(PUBLIC)(view)


def _needs_of(view: Any) -> list[Need]:
    """Find what the view was told, or its class: all of these hold; empty where neither was."""
    own: Need | None = getattr(view, "__dict__", {}).get(_NEED)
    if own is not None:
        return [own]
    if isinstance(view, functools.partial):
        return _needs_of(view.func)
    # `cls` is how Django REST framework names the class of a view set.
    shown = getattr(view, "view_class", None) or getattr(view, "cls", None)
    return _needs_of_class(shown if isinstance(shown, type) else type(view))


def _needs_of_class(view_class: type) -> list[Need]:
    """Find what a class was told, else what its bases were and ask for: what extends a public view is not public."""
    if _NEED in vars(view_class):
        return [vars(view_class)[_NEED]]
    told: list[type] = []
    for base in view_class.__mro__:
        if _NEED in vars(base) and not vars(base)[_NEED].is_lax and not any(issubclass(one, base) for one in told):
            told.append(base)
    return [vars(base)[_NEED] for base in told]


def _mark(need: Need) -> Callable[[View], View]:
    def mark(view: View) -> View:
        if _NEED in vars(view) or (not isinstance(view, type) and _needs_of(view)):
            raise ImproperlyConfigured(f"{view!r} was told before what it needs: wrap it in another view")
        setattr(view, _NEED, need)
        return view

    return mark
