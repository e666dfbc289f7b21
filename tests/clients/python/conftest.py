"""A real pair for all tests of a module, and a user who is logged in."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.system import BROWSER, System, running_system


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A session from `BROWSER`, and its user."""

    session_id: str
    handle: str
    email: str


@pytest.fixture(scope="module")
def system(module_dir: Path) -> Iterator[System]:
    with running_system(module_dir) as system:
        yield system


@pytest.fixture(scope="module")
def socket(system: System) -> str:
    return str(system.sidecar.socket)


@pytest.fixture(scope="module")
def ada(system: System) -> LoggedIn:
    return log_in(system, "ada@example.org", roles=("reader",))


@pytest.fixture(scope="module")
def client_ip() -> str:
    return BROWSER.client_ip


def log_in(system: System, email: str, *, roles: tuple[str, ...] = ()) -> LoggedIn:
    """Register a user and log them in from `BROWSER`."""
    system.app.register(email, roles=roles)
    login = system.app.log_in(email)
    return LoggedIn(session_id=login.session_id, handle=login.session.handle, email=email)
