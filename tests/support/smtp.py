"""A real SMTP server (aiosmtpd) in a thread of its own, which can be told to refuse, to hang and to drop."""

import asyncio
import email
import email.policy
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final, Literal

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from tests.support.certificates import self_signed

USER: Final = "mailer"
SMTP_PASSWORD: Final = "sentinel smtp password"
_SECONDS: Final = 20.0

OnData = Literal["take", "hang", "take and hang", "drop", "take and drop"]


@dataclass
class Mailbox:
    """What the server takes, and how it behaves. A mail in `taken` is one that the server keeps.

    Written by the server's thread under the condition, read by tests; the behaviour is set by tests.
    """

    port: int = 0
    wants_user: bool = False
    recipient_reply: str = ""
    data_reply: str = "250 taken"
    on_data: OnData = "take"
    taken: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, str]] = field(default_factory=list)
    """Sender and recipient of each mail taken."""
    attempts: int = 0
    """How often somebody came as far as the mail itself."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd looks for this name
        self, _: Any, session: Any, envelope: Any, address: str, __: Any
    ) -> str:
        if self.wants_user and not session.authenticated:
            return "530 who are you?"
        if self.recipient_reply:
            return self.recipient_reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, _: Any, envelope: Any) -> str:  # noqa: N802 - as above
        with self.changed:
            self.attempts += 1
            if self.on_data.startswith("take") and self.data_reply.startswith("250"):
                message = email.message_from_bytes(envelope.content, policy=email.policy.default)
                self.taken.append(message)
                self.envelopes.append((envelope.mail_from, envelope.rcpt_tos[0]))
            self.changed.notify_all()
        if self.on_data.endswith("hang"):
            while self.on_data.endswith("hang"):
                await asyncio.sleep(0.01)
            return "451 hung for long enough"
        if self.on_data.endswith("drop"):
            server.transport.abort()
        return self.data_reply

    def wait_for_attempts(self, count: int) -> None:
        """Wait until so many mails were brought."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.attempts >= count, _SECONDS)

    def wait_for(self, count: int) -> list[EmailMessage]:
        """Wait until the server has taken so many mails; return all that it has."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.taken) >= count, _SECONDS)
            return list(self.taken)

    def text_to(self, recipient: str) -> str:
        """The plain text of the only mail to somebody."""
        (found,) = (mail for mail in self.taken if mail["To"] == recipient)
        return text_of(found)


def text_of(mail: EmailMessage) -> str:
    """The plain text of a mail."""
    body = mail.get_body(preferencelist=("plain",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def _authenticated(_: Any, __: Any, ___: Any, ____: Any, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (
        USER.encode(),
        SMTP_PASSWORD.encode(),
    )
    return AuthResult(success=good, handled=False)


Security = Literal["plain", "starttls", "tls"]


@contextmanager
def mail_server(
    *, security: Security = "plain", certificate: Path | None = None, smtputf8: bool = True
) -> Iterator[Mailbox]:
    """Start a server on loopback. With TLS it wants a user; its certificate for localhost is written to the file."""
    options: dict[str, Any] = {"enable_SMTPUTF8": smtputf8, "hostname": "localhost", "ident": "test"}
    tls = None
    if security != "plain":
        assert certificate is not None
        tls = _tls(certificate)
        # aiosmtpd does not see TLS that begins with the connection.
        options |= {"authenticator": _authenticated, "auth_require_tls": security == "starttls"}
        options |= {"tls_context": tls, "require_starttls": True} if security == "starttls" else {}
    mailbox = Mailbox(wants_user=security != "plain")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await loop.create_server(
            lambda: SMTP(mailbox, loop=loop, **options),
            host="127.0.0.1",
            port=0,
            ssl=tls if security == "tls" else None,
        )

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(_SECONDS)
    mailbox.port = server.sockets[0].getsockname()[1]
    try:
        yield mailbox
    finally:
        mailbox.on_data = "take"
        asyncio.run_coroutine_threadsafe(_ended(server), loop).result(_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_SECONDS)
        loop.close()


async def _ended(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)


def _tls(certificate: Path) -> ssl.SSLContext:
    key, pem = self_signed(certificate)
    both = certificate.with_suffix(".both")
    both.write_bytes(key + pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    return context
