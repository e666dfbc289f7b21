"""What there is before a case begins."""

import os
from collections.abc import Mapping
from typing import Any, Final

from clients.conformance.case_file import Case
from clients.conformance.plain import fill, plain
from clients.conformance.references import resolve
from clients.conformance.world import World
from trustlayer.v1 import identity_pb2, session_pb2

PASSWORD: Final = "correct horse battery staple"


def beforehand(case: Case, world: World, browser: Mapping[str, str]) -> dict[str, Any]:
    """Make what the case needs by our own stubs: a user, and a login from this context. Nobody else has them."""
    unique = f"u{os.urandom(6).hex()}"
    known: dict[str, Any] = {
        "unique": unique,
        "email": f"{unique}@example.org",
        "password": PASSWORD,
        "browser": browser,
    }
    if "user" in case.given or "login" in case.given:
        asked = {"email": known["email"], "password": PASSWORD, "name": "Ada", **(case.given.get("user") or {})}
        register = identity_pb2.RegisterUserRequest()
        fill(register, resolve(asked, known))
        known["user"] = plain(world.register(register).user)
    if "login" in case.given:
        asked = {"login": known["email"], "password": PASSWORD, "context": browser, **(case.given["login"] or {})}
        login = session_pb2.LoginRequest()
        fill(login, resolve(asked, known))
        known["login"] = plain(world.log_in(login))
    return known
