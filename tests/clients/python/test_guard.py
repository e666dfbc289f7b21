"""What a route can ask for, and what is answered to whom; and what views of Django were told."""

import functools
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from trustlayer import CallFailed, DenialReason, Failure, Mode, SessionDenied, ValidatorUnavailable
from trustlayer.guard import PUBLIC, Need, Outcome, Refused, Routes
from trustlayer.http_requests import Carried, RequestReader
from trustlayer.v1 import types_pb2
from trustlayer.validation import Validation

ADMIN = Need(roles_any=["admin"])


def yes(*roles: str) -> Validation:
    session = types_pb2.Session(handle="sh_1", user=types_pb2.User(id="usr_1", roles=roles))
    return Validation(session=session, freshness=types_pb2.Freshness())


def refusal(need: Need, outcome: Outcome) -> Refused:
    with pytest.raises(Refused) as refused:
        need.settle(outcome)
    return refused.value


@pytest.mark.parametrize(
    "words",
    [
        {"public": True, "roles_any": ["admin"]},
        {"public": True, "optional": True},
        {"optional": True, "roles_any": ["admin"]},
        {"optional": True, "roles_all": ["admin"]},
        {"optional": True, "mode": Mode.STRICT},
        {"optional": True, "route": "billing"},
        {"roles_any": "admin"},
        {"roles_all": "admin"},
        {"roles_any": []},
        {"roles_all": ()},
        {"roles_any": ["admin", ""]},
        {"roles_any": [7]},
    ],
)
def test_a_need_that_contradicts_itself_or_names_no_roles_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nothing else|list of roles"):
        Need(**words)


@pytest.mark.parametrize("module", ["asgi", "wsgi", "django"])
def test_roles_that_are_no_list_are_refused_where_a_view_is_told(module: str) -> None:
    requires = __import__(f"trustlayer.{module}", fromlist=["requires"]).requires
    for roles in ("admin", ()):
        with pytest.raises(ValueError, match="list of roles"):
            requires(roles_any=roles)
        with pytest.raises(ValueError, match="list of roles"):
            requires(roles_all=roles)


def test_roles_are_one_of_or_all_of() -> None:
    both = Need(roles_all=["admin", "auditor"])
    assert ADMIN.settle(yes("reader", "admin")) is not None
    assert both.settle(yes("auditor", "reader", "admin")) is not None
    for need, roles in ((ADMIN, ("reader",)), (ADMIN, ()), (both, ("admin",)), (both, ())):
        refused = refusal(need, yes(*roles))
        assert (refused.status, refused.reason) == (403, "ROLE_MISSING")


def test_what_is_asked_of_a_path_is_asked_with_a_slash_behind_it_too() -> None:
    routes = Routes(Need(), {"/admin": ADMIN, "/login": PUBLIC, "/maybe": Need(optional=True), "/team/": ADMIN})
    needs = {
        "/admin": [ADMIN],
        "/admin/": [Need(), ADMIN],
        "/admin//": [Need(), ADMIN],
        "/team/": [ADMIN],
        "/team": [Need(), ADMIN],
        "/login/": [Need()],
        "/maybe/": [Need()],
        "/other/": [Need()],
    }
    assert {path: routes.needs_of(path) for path in needs} == needs
    apart = Routes(PUBLIC, {"/admin": ADMIN, "/admin/": PUBLIC})
    assert apart.needs_of("/admin/") == [PUBLIC]
    assert apart.needs_of("/") == [PUBLIC]


@pytest.mark.parametrize(
    ("outcome", "status", "code", "reason"),
    [
        (SessionDenied(DenialReason.UNSPECIFIED), 401, "UNAUTHENTICATED", "NOT_ACTIVE"),
        (SessionDenied(DenialReason(99)), 401, "UNAUTHENTICATED", "NOT_ACTIVE"),
        (SessionDenied(DenialReason.REVOKED), 401, "UNAUTHENTICATED", "REVOKED"),
        (SessionDenied(DenialReason.ROUTE_NOT_COVERED), 403, "PERMISSION_DENIED", "ROUTE_NOT_COVERED"),
        (ValidatorUnavailable(Failure(grpc.StatusCode.UNAUTHENTICATED, "", "x")), 503, "UNAVAILABLE", "UNAVAILABLE"),
        (
            ValidatorUnavailable(Failure(grpc.StatusCode.UNAVAILABLE, "REVISION_NOT_REACHED", "x")),
            503,
            "UNAVAILABLE",
            "REVISION_NOT_REACHED",
        ),
        (CallFailed(Failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "x")), 500, "INTERNAL", "INTERNAL"),
    ],
)
def test_each_outcome_has_its_answer(outcome: Outcome, status: int, code: str, reason: str) -> None:
    for need in (Need(), ADMIN):
        refused = refusal(need, outcome)
        assert (int(refused.status), refused.code.name, refused.reason) == (status, code, reason)
        if not isinstance(outcome, SessionDenied):
            assert json.loads(refused.body)["message"] not in ("", "x")


def test_a_proof_that_is_too_old_asks_for_another() -> None:
    headers = dict(refusal(Need(), SessionDenied(DenialReason.AUTHENTICATION_TOO_OLD)).headers)
    assert headers["www-authenticate"] == 'Bearer error="insufficient_user_authentication"'


def test_what_cannot_be_a_session_id_is_denied_without_asking() -> None:
    carried = RequestReader().read({"cookie": [f"session_id={'x' * 129}"]}, peer="203.0.113.7")
    with pytest.raises(Refused, match="MALFORMED") as refused:
        Need().arguments(carried)
    assert refused.value.status == 401
    assert Need(optional=True).arguments(carried) is None
    longest = RequestReader().read({"cookie": [f"session_id={'x' * 128}"]}, peer="203.0.113.7")
    asked = Need().arguments(longest)
    assert asked is not None
    assert asked["session_id"] == "x" * 128


def test_more_than_32_forwarded_addresses_are_no_client_ip() -> None:
    reader = RequestReader(trusted_proxies=["10.0.0.0/8"])

    def client_ip(*lines: str) -> str:
        found: Carried = reader.read({"x-forwarded-for": lines}, peer="10.0.0.1")
        return found.client_ip

    assert client_ip(", ".join(["198.51.100.1"] * 32)) == "198.51.100.1"
    assert client_ip(", ".join(["198.51.100.1"] * 33)) == ""
    assert client_ip(", ".join(["198.51.100.1"] * 20), ", ".join(["198.51.100.1"] * 13)) == ""


def test_a_question_that_is_wrong_is_told_to_the_apps_log(caplog: pytest.LogCaptureFixture) -> None:
    refusal(Need(), CallFailed(Failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "", None, ("route",))))
    assert "INVALID_FIELD" in caplog.text
    assert "route" in caplog.text


# ---- what views of Django were told ----


def told(view: Callable[..., Any]) -> list[Need]:
    from trustlayer.django import _needs_of

    return _needs_of(view)


def test_a_class_view_of_django_inherits_what_is_asked_and_not_what_lets_pass() -> None:
    from django.views import View

    from trustlayer.django import public, requires

    def extended(*bases: type) -> Any:
        return type("Extended", bases, {})

    class Plain(View):  # type: ignore[misc]
        pass

    admin = requires(roles_any=["admin"])(extended(Plain))
    strict = requires(mode=Mode.STRICT)(extended(Plain))
    open_ = public(extended(Plain))
    needs = {
        (admin,): [ADMIN],
        (strict, admin): [Need(mode=Mode.STRICT), ADMIN],
        (open_, admin): [ADMIN],
        (open_,): [],
        (requires(optional=True)(extended(Plain)),): [],
        (public(extended(admin)),): [ADMIN],
        (requires(roles_any=["reader"])(extended(admin)),): [Need(roles_any=["reader"])],
    }
    assert {bases: told(extended(*bases).as_view()) for bases in needs} == needs
    assert told(open_.as_view()) == [PUBLIC]
    assert told(public(extended(admin)).as_view()) == [PUBLIC]
    assert told(functools.partial(admin.as_view())) == [ADMIN]


def test_an_instance_as_a_view_of_django_is_what_its_class_was_told() -> None:
    from trustlayer.django import public, requires

    @requires(roles_any=["admin"])
    class Feed:
        def __call__(self) -> None: ...

    @public
    class Open:
        def __call__(self) -> None: ...

    class More(Feed): ...

    class Less(Open): ...

    assert [told(feed) for feed in (Feed(), More(), Open(), Less())] == [[ADMIN], [ADMIN], [PUBLIC], []]

    def view_set() -> None: ...

    vars(view_set)["cls"] = More
    assert told(view_set) == [ADMIN]


def test_a_view_of_django_is_told_once() -> None:
    from django.core.exceptions import ImproperlyConfigured
    from django.views import View

    from trustlayer.django import public, requires

    @requires(roles_any=["admin"])
    class Admin(View):  # type: ignore[misc]
        pass

    for again in (requires(mode=Mode.STRICT), public):
        for view in (Admin, Admin.as_view()):
            with pytest.raises(ImproperlyConfigured):
                again(view)
