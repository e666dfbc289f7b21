"""Put the app together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from accounts import admin, csrf, devices, errors, login, requests, visitors
from accounts.pages import HERE, SecurityHeaders
from accounts.settings import Settings
from trustlayer.aio import Client


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the app; settings come from the environment unless given. It connects with the first request."""
    chosen = settings or Settings.from_environment()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Client(chosen.socket) as client:
            app.state.client = client
            yield

    app = FastAPI(
        lifespan=lifespan,
        # Before every route, also one that is added tomorrow and asks for neither.
        dependencies=[Depends(csrf.protect), Depends(visitors.admit)],
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.settings = chosen
    app.state.reader = requests.reader(chosen.trusted_proxies)
    for part in (login, devices, admin):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    errors.add_to(app)
    # A name that somebody else's server gave to our address is not ours (DNS rebinding).
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=[urlsplit(chosen.origin).hostname or ""], www_redirect=False
    )
    app.add_middleware(SecurityHeaders, https=chosen.origin.startswith("https:"))
    return app
