"""Registering, logging in and logging out."""

import logging
import math
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from accounts import cookies, words
from accounts.pages import CHALLENGE, page, see
from accounts.visitors import AnyVisitor, Sidecar, Visitor
from trustlayer import CallFailed, TrustLayerError
from trustlayer.v1.identity_pb2 import RegisterUserRequest
from trustlayer.v1.session_pb2 import LoginRequest, LogoutRequest

HOME: Final = "/devices"
_AFTER_LOGIN: Final = (HOME, "/admin")
"""Where a login may lead to; what else stands in `next`, whoever wrote it there, is not followed."""

router = APIRouter()
log = logging.getLogger("accounts")


async def _form(request: Request) -> dict[str, str]:
    form: dict[str, str] = request.state.form  # see csrf.protect
    return form


Form = Annotated[dict[str, str], Depends(_form)]


def after_login(wanted: str) -> str:
    """Return the page to go to: the wanted one if it is one of ours."""
    return wanted if wanted in _AFTER_LOGIN else HOME


@router.get("/login")
async def login_page(request: Request, visitor: AnyVisitor) -> Response:
    """Show the form."""
    return page(
        request,
        "login.html",
        next=after_login(request.query_params.get("next", "")),
        left="left" in request.query_params,
        guess=words.device_name(visitor.user_agent),
        login="",
        problems={},
        problem="",
    )


@router.post("/login")
async def log_in(request: Request, visitor: AnyVisitor, client: Sidecar, form: Form) -> Response:
    """Check the password; the browser gets a new session id and never keeps one that it had before."""
    wanted = after_login(form.get("next", ""))
    try:
        return await _logged_in(visitor, client, login=form.get("login", "").strip(), form=form, wanted=wanted)
    except CallFailed as error:
        problem, status, headers = _explained(error)
        return page(
            request,
            "login.html",
            status=status,
            headers=headers,
            next=wanted,
            left=False,
            guess=words.device_name(visitor.user_agent),
            login=form.get("login", ""),
            problems=_problems(error),
            problem=problem,
        )


@router.get("/register")
async def register_page(request: Request) -> Response:
    """Show the form."""
    return page(request, "register.html", email="", name="", problems={}, problem="")


@router.post("/register")
async def register(request: Request, visitor: AnyVisitor, client: Sidecar, form: Form) -> Response:
    """Make an account, without any role, and log in."""
    email, name = form.get("email", "").strip(), form.get("name", "").strip()
    try:
        await client.identity.RegisterUser(
            RegisterUserRequest(email=email, name=name, password=form.get("password", ""))
        )
        return await _logged_in(visitor, client, login=email, form=form, wanted=HOME)
    except CallFailed as error:
        problem, status, headers = _explained(error)
        return page(
            request,
            "register.html",
            status=status,
            headers=headers,
            email=email,
            name=name,
            problems=_problems(error),
            problem=problem,
        )


@router.post("/logout")
async def log_out(visitor: AnyVisitor, client: Sidecar) -> Response:
    """End the session, and only then forget its id: while the sidecar is away, nobody is told that they are out."""
    if visitor.session_id:
        await _end(client, visitor.session_id)
    response = see("/login?left")
    cookies.drop_session(response)
    return response


async def _logged_in(visitor: Visitor, client: Sidecar, *, login: str, form: dict[str, str], wanted: str) -> Response:
    answer = await client.sessions.Login(
        LoginRequest(
            login=login,
            password=form.get("password", ""),
            context=visitor.context,
            device_name=form.get("device_name", "").strip() or words.device_name(visitor.user_agent),
        )
    )
    response = see(wanted)
    cookies.set_session(response, answer.session_id)
    if visitor.session_id:
        try:
            await _end(client, visitor.session_id)
        except TrustLayerError:
            log.warning("the session that this browser had before could not be ended; it ends by itself")
    return response


async def _end(client: Sidecar, session_id: str) -> None:
    try:
        await client.sessions.Logout(LogoutRequest(session_id=session_id))
    except CallFailed as error:
        if error.reason != "INVALID_FIELD":  # what is no session id at all names no session
            raise


def _problems(error: CallFailed) -> dict[str, str]:
    """Say what is wrong beside each field. Of a password, Flowless itself says it in words for people."""
    names = [field.rpartition(".")[2] for field in error.fields]
    return {
        name: f"Please choose another: {error.message.removeprefix('password: ')}."
        if name == "password"
        else words.FIELDS[name]
        for name in names
        if name == "password" or name in words.FIELDS
    }


def _explained(error: CallFailed) -> tuple[str, int, dict[str, str] | None]:
    """Give what to say above the form, status and headers; raise the error again if it is not about the form."""
    match error.reason:
        case "LOGIN_REFUSED":
            return "The login or the password is wrong.", HTTPStatus.UNAUTHORIZED, CHALLENGE
        case "EMAIL_TAKEN":
            return "There is an account with this e-mail address already.", HTTPStatus.CONFLICT, None
        case "INVALID_FIELD":
            return "Something in the form is not right.", HTTPStatus.UNPROCESSABLE_ENTITY, None
        case "TOO_MANY_ATTEMPTS":
            return "That was tried too often.", HTTPStatus.TOO_MANY_REQUESTS, retry_after(error)
    raise error


def retry_after(error: CallFailed) -> dict[str, str]:
    """Say when to try again, in whole seconds."""
    return {"retry-after": str(max(1, math.ceil(error.retry_after or 1.0)))}
