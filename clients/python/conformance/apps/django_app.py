"""The app of the middleware cases in Django, `app` for WSGI and `asgi_app` for ASGI.

It has what the Python client's own tests ask for beyond them, too.
"""

import os
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["trustlayer.django.TrustLayerMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this test",
    TRUST_LAYER={
        "socket": os.environ["APP_SIDECAR_SOCKET"],
        "timeout": 10.0,
        "trusted_proxies": ["127.0.0.9"],
    },
)
django.setup()

from django.views import View  # noqa: E402

from trustlayer import Mode  # noqa: E402
from trustlayer.django import public, requires  # noqa: E402


def show(request: HttpRequest, **_: Any) -> JsonResponse:
    session = request.trust_session
    return JsonResponse({"email": session.user.email if session else None})


@public
def show_public(request: HttpRequest, **_: Any) -> JsonResponse:
    return show(request)


@requires(optional=True)
async def show_maybe(request: HttpRequest) -> JsonResponse:
    return show(request)


@requires(mode=Mode.STRICT, roles_any=["admin"])
class Admin(View):  # type: ignore[misc]
    def get(self, request: HttpRequest) -> JsonResponse:
        return show(request)


@public
class Base(View):  # type: ignore[misc]
    def get(self, request: HttpRequest) -> JsonResponse:
        return show(request)


class Extended(Base):
    pass


class ExtendedAdmin(Admin):
    pass


@requires(roles_any=["admin"])
class Feed:
    def __call__(self, request: HttpRequest) -> JsonResponse:
        return show(request)


def _guarded(**need: Any) -> Callable[[HttpRequest], JsonResponse]:
    @requires(**need)
    def show_guarded(request: HttpRequest) -> JsonResponse:
        return show(request)

    return show_guarded


urlpatterns = [
    path("base", Base.as_view()),
    path("extended", Extended.as_view()),
    path("whoami", show),
    path("public", show_public),
    path("open/<path:rest>", show_public),
    path("maybe", show_maybe),
    path("admin", Admin.as_view()),
    path("both", _guarded(roles_all=["reader", "admin"])),
    path("either", _guarded(roles_any=["reader", "admin"])),
    path("fresh", _guarded(route="payments")),
    path("named", _guarded(route="no-such-rule")),
    path("extended-admin", ExtendedAdmin.as_view()),
    path("admin-instance", Feed()),
    path("wrong", _guarded(route="x" * 129)),
]

app = get_wsgi_application()
asgi_app = get_asgi_application()
