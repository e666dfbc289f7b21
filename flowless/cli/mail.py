"""`flowless mail …`."""

from typing import Annotated

import typer

from flowless.bootstrap import Flowless
from flowless.cli.common import EXIT_REFUSED, EXIT_SETTINGS, ConfigOption, fail, run
from flowless.domain.mail import MailError

app = typer.Typer(help="Mail that Flowless sends.", no_args_is_help=True)


@app.callback()
def _mail() -> None:
    """Mail that Flowless sends."""


@app.command("test")
def _test(
    address: Annotated[str, typer.Argument(help="Where the test mail goes.")],
    config: ConfigOption = None,
) -> None:
    """Send a test mail at once, past the outbox; say why if the mail server does not take it, and exit with 1.

    \b
    Examples:
      flowless mail test postmaster@example.org
    """

    async def work(flowless: Flowless) -> str | None:
        if flowless.mail is None:
            return None
        try:
            await flowless.mail.send_test(address)
        except MailError as error:
            return str(error)
        return ""

    problem = run(config, work)
    if problem is None:
        fail("no mail is sent by this Flowless: set smtp_url and mail_from", EXIT_SETTINGS)
    if problem:
        fail(problem, EXIT_REFUSED)
    typer.echo("the mail server took the mail")
