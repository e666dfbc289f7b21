"""Hands mail to an SMTP server.

    smtps://user@host:465            TLS from the first byte (RFC 8314)
    smtp+starttls://user@host:587    TLS by STARTTLS, or nothing is sent
    smtp://127.0.0.1:25              plaintext, to this machine only unless explicitly allowed

The server's certificate is always verified. What the server says may repeat an address: only its code goes further.
"""

import ssl
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, getaddresses
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import aiosmtplib
from email_validator import EmailNotValidError, validate_email

from flowless.domain.links import is_loopback
from flowless.domain.mail import Letter, MailError

_PORTS: Final = {"smtps": 465, "smtp+starttls": 587, "smtp": 25}
_PERMANENT: Final = 500
"""Replies from here on say not to ask again (RFC 5321, 4.2.1)."""


def problem_of(url: str, *, allow_insecure: bool) -> str | None:
    """Say what is wrong with a URL; `None` when nothing is."""
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.scheme not in _PORTS or parts.path.strip("/") or parts.query or parts.fragment:
        return "must be smtps://user@host:465, smtp+starttls://user@host:587 or smtp://127.0.0.1:25"
    if parts.password is not None:
        return "must hold no password: see smtp_password_file"
    if parts.scheme != "smtp":
        return None
    if parts.username is not None:
        return "smtp:// would send the password in clear: use smtps:// or smtp+starttls://"
    if not allow_insecure and not is_loopback(parts.hostname or ""):
        return "smtp:// is plaintext and for loopback only: use smtps:// or smtp+starttls://, or set insecure_smtp"
    return None


def sender_of(text: str) -> Address | None:
    """Read `name <user@host>` or an address alone; `None` for anything else."""
    found = getaddresses([text])
    if len(found) != 1 or not text.isprintable():
        return None
    name, spec = found[0]
    try:
        ascii_form = validate_email(spec, check_deliverability=False).ascii_email
        return None if ascii_form is None else Address(name, addr_spec=ascii_form)
    except (EmailNotValidError, ValueError):
        return None


def is_ca_file(path: Path) -> bool:
    """Whether a file holds certificates of CAs."""
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    host: str
    port: int
    user: str | None
    use_tls: bool
    start_tls: bool


class SmtpTransport:
    """See `flowless.ports.mail.MailTransport`. One connection for each mail; no state is shared."""

    def __init__(
        self, *, url: str, password: str | None, ca_file: Path | None, sender: Address, timeout_seconds: float
    ) -> None:
        """`timeout_seconds` bounds each step; whoever calls bounds the whole. Raises OSError for a bad CA file."""
        self._server = _server_of(urlsplit(url))
        self._password = password
        # Verifies chain and name, TLS 1.2 at least.
        self._tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._sender = sender
        self._timeout_seconds = timeout_seconds

    async def send(self, letter: Letter, *, mail_id: str, recipient: str, written_at: datetime) -> None:
        """See the port."""
        address = _envelope_address(recipient)
        message = self._message(letter, mail_id=mail_id, address=address, written_at=written_at)
        client = self._client()
        try:
            await _connected(client)
            await _handed_over(client, message, sender=self._sender.addr_spec, recipient=address.addr_spec)
            await _goodbye(client)
        finally:
            client.close()

    def _client(self) -> aiosmtplib.SMTP:
        server = self._server
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=self._password if server.user is not None else None,
            use_tls=server.use_tls,
            start_tls=server.start_tls,
            tls_context=self._tls if server.use_tls or server.start_tls else None,
            # Not this machine's name, for which a resolver would have to be asked.
            local_hostname=self._sender.domain,
            timeout=self._timeout_seconds,
        )

    def _message(self, letter: Letter, *, mail_id: str, address: Address, written_at: datetime) -> EmailMessage:
        """Write the message. Headers are the standard library's: a line end in a value is refused, not sent."""
        message = EmailMessage(policy=SMTP_POLICY)
        message["From"] = self._sender
        message["To"] = address
        message["Subject"] = letter.subject
        message["Date"] = format_datetime(written_at)
        message["Message-ID"] = f"<{mail_id}@{self._sender.domain}>"
        # RFC 3834: out-of-office answers are not wanted.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        if letter.html:
            message.add_alternative(letter.html, subtype="html")
        return message


def _server_of(parts: SplitResult) -> _Server:
    return _Server(
        host=parts.hostname or "",
        port=parts.port or _PORTS[parts.scheme],
        user=None if parts.username is None else unquote(parts.username),
        use_tls=parts.scheme == "smtps",
        start_tls=parts.scheme == "smtp+starttls",
    )


def _envelope_address(recipient: str) -> Address:
    """Put an address into the form that most servers take: the domain in ASCII, all of it if that is possible."""
    try:
        found = validate_email(recipient, check_deliverability=False, allow_smtputf8=True)
        user, _, domain = (found.ascii_email or found.normalized).rpartition("@")
        # Not by `addr_spec`, which refuses letters outside ASCII.
        return Address(username=user, domain=domain)
    except (EmailNotValidError, ValueError):
        raise MailError("the address cannot be written to", permanent=True) from None


async def _connected(client: aiosmtplib.SMTP) -> None:
    """Connect, with TLS and user as configured. What fails here is the operator's to mend, and tried again."""
    try:
        await client.connect()
    except aiosmtplib.SMTPAuthenticationError as error:
        raise MailError(f"the mail server refused the user or password ({error.code})") from None
    except aiosmtplib.SMTPResponseException as error:
        raise MailError(f"the mail server refused the connection ({error.code})") from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise MailError("the mail server's certificate is not one to trust: see smtp_ca_file") from None
        raise MailError(f"the mail server cannot be reached ({type(cause).__name__})") from None


async def _handed_over(client: aiosmtplib.SMTP, message: EmailMessage, *, sender: str, recipient: str) -> None:
    try:
        await client.send_message(message, sender=sender, recipients=[recipient])
    except aiosmtplib.SMTPRecipientsRefused as error:
        code = error.recipients[0].code if error.recipients else 0
        raise MailError(f"the mail server refused the recipient ({code})", permanent=code >= _PERMANENT) from None
    except aiosmtplib.SMTPSenderRefused as error:
        # Whatever the code: it is mail_from that has to be mended, and the mails wait for that.
        raise MailError(f"the mail server refused the sender ({error.code}): see mail_from") from None
    except aiosmtplib.SMTPResponseException as error:
        raise MailError(
            f"the mail server refused the mail ({error.code})", permanent=error.code >= _PERMANENT
        ) from None
    except aiosmtplib.SMTPNotSupported:
        raise MailError("the mail server takes no address with letters outside ASCII", permanent=True) from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise MailError(f"the mail server was lost ({type(error).__name__})") from None


async def _goodbye(client: aiosmtplib.SMTP) -> None:
    """Say QUIT; the mail was taken, whatever comes now."""
    try:
        await client.quit()
    except (aiosmtplib.SMTPException, OSError):
        return
