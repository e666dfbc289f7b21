"""`flowless users …`."""

import sys
from typing import Annotated

import typer

from flowless.bootstrap import Flowless
from flowless.cli import user_import
from flowless.cli.common import BY, EXIT_REFUSED, ConfigOption, JsonOption, fail, run, show, show_one
from flowless.domain.users import Profile, User
from trust_core.identifiers import is_user_id

app = typer.Typer(help="People and machines that can log in.", no_args_is_help=True)

user_import.register(app)

UserArgument = Annotated[str, typer.Argument(help="User id, e-mail address or user name.")]
RoleOption = Annotated[list[str] | None, typer.Option("--role", help="Repeatable.")]


def _row(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "email": user.email,
        "user_name": user.profile.user_name,
        "status": user.status.value,
        "roles": list(user.profile.roles),
        "created": user.created_at,
    }


async def find_user(flowless: Flowless, name: str) -> User:
    """Find by id, e-mail address or user name."""
    return await (flowless.users.get(name) if is_user_id(name) else flowless.users.look_up(name))


def _password(from_stdin: bool) -> str:
    if from_stdin:
        try:
            return sys.stdin.buffer.readline(8_192).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            fail("the password is not UTF-8 text", EXIT_REFUSED)
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


@app.command("create")
def _create(
    email: Annotated[str, typer.Argument(help="Unique.")],
    user_name: Annotated[str, typer.Option(help="Second login name, unique.")] = "",
    role: RoleOption = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read one line from standard input instead of asking.")
    ] = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="A user without one, who logs in by trust tokens.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a user. The password is asked for, or read from standard input; never an argument.

    \b
    Examples:
      flowless users create ada@example.org --role admin
      printf '%s\\n' "$PASSWORD" | flowless users create ada@example.org --password-stdin
    """
    password = "" if no_password else _password(password_stdin)
    if not password and not no_password:
        fail("the password is empty; --no-password makes a user without one", EXIT_REFUSED)
    profile = Profile(user_name=user_name, roles=tuple(role or ()))
    user = run(
        config, lambda flowless: flowless.users.register(email=email, password=password, profile=profile, by=BY)
    )
    show_one(_row(user), as_json=as_json)


@app.command("list")
def _list(
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List users in the order of their ids.

    \b
    Examples:
      flowless users list --limit 10
    """
    page = run(config, lambda flowless: flowless.users.list(page_size=limit, after=""))
    show([_row(user) for user in page.users], as_json=as_json, empty="no users; `flowless users create EMAIL`")
    if page.next_after and not as_json:
        typer.echo("there are more; raise --limit", err=True)


@app.command("show")
def _show(user: UserArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one user.

    \b
    Examples:
      flowless users show ada@example.org --json
    """
    found = run(config, lambda flowless: find_user(flowless, user))
    show_one(_row(found) | {"attributes": found.profile.attributes, "updated": found.updated_at}, as_json=as_json)


@app.command("set-roles")
def _set_roles(
    user: UserArgument, role: RoleOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Replace the user's roles; without --role the user has none. Sidecars see it as fast as a revoke.

    \b
    Examples:
      flowless users set-roles ada@example.org --role admin --role editor
    """
    profile = Profile(roles=tuple(role or ()))

    async def work(flowless: Flowless) -> tuple[User, int]:
        found = await find_user(flowless, user)
        return await flowless.users.update(found.id, profile, frozenset({"roles"}), by=BY)

    updated, revision = run(config, work)
    show_one(_row(updated) | {"revision": revision}, as_json=as_json)


def _change(name: str, config: ConfigOption, *, as_json: bool, done: str) -> None:
    async def work(flowless: Flowless) -> tuple[User, int]:
        found = await find_user(flowless, name)
        action = {
            "disabled": flowless.users.disable,
            "enabled": flowless.users.enable,
            "deleted": flowless.users.delete,
        }[done]
        return found, await action(found.id, by=BY)

    user, revision = run(config, work)
    show_one({done: user.id, "email": user.email, "revision": revision}, as_json=as_json)


@app.command("disable")
def _disable(user: UserArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Forbid logins and revoke all sessions of the user.

    \b
    Examples:
      flowless users disable ada@example.org
    """
    _change(user, config, as_json=as_json, done="disabled")


@app.command("enable")
def _enable(user: UserArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Allow logins again; sessions from before stay revoked.

    \b
    Examples:
      flowless users enable ada@example.org
    """
    _change(user, config, as_json=as_json, done="enabled")


@app.command("delete")
def _delete(
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase the user and all sessions. Cannot be undone.

    \b
    Examples:
      flowless users delete ada@example.org --yes
    """
    if not yes:
        typer.confirm(f"Erase {user} and all sessions?", abort=True)
    _change(user, config, as_json=as_json, done="deleted")
