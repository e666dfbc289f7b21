"""The routes that `test_middleware.py` asks for, in Django; `app` for WSGI, `asgi_app` for ASGI."""

import os
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


@requires(route="no-such-rule")
def show_named(request: HttpRequest) -> JsonResponse:
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


@requires(route="x" * 129)
def show_wrong(request: HttpRequest) -> JsonResponse:
    return show(request)


urlpatterns = [
    path("base", Base.as_view()),
    path("extended", Extended.as_view()),
    path("whoami", show),
    path("public", show_public),
    path("open/<path:rest>", show_public),
    path("maybe", show_maybe),
    path("admin", Admin.as_view()),
    path("named", show_named),
    path("extended-admin", ExtendedAdmin.as_view()),
    path("admin-instance", Feed()),
    path("wrong", show_wrong),
]

app = get_wsgi_application()
asgi_app = get_asgi_application()
