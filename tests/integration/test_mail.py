"""Mail from the outbox to a real SMTP server that refuses, hangs, drops and shows the wrong certificate."""

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.headerregistry import Address
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flowless.adapters.mail_templates import MailTemplates
from flowless.adapters.smtp import SmtpTransport
from flowless.adapters.sql.database import WriteTransaction
from flowless.adapters.sql.outbox import add_mail
from flowless.adapters.sql.schema import outbox
from flowless.domain.mail import ClaimedMail, Letter, MailError, MailOutcome, OutgoingMail
from flowless.ports.mail import Outbox
from flowless.services.outbox import MAX_ATTEMPTS, MailSender
from tests.support.certificates import self_signed
from tests.support.clock import FakeClock
from tests.support.smtp import SMTP_PASSWORD, USER, Mailbox, Security, mail_server, text_of
from tests.support.stores import NOW, Stores, counting_random, sqlite
from trust_core.errors import Reason, TrustError

SENDER = Address("Example", addr_spec="no-reply@example.org")
LINKS = {"magic_link": "https://app.example/in?token={token}"}
HOUR = timedelta(hours=1)
_ids = itertools.count(1)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with sqlite(tmp_path) as opened:
        yield opened


@pytest.fixture
def server() -> Iterator[Mailbox]:
    with mail_server() as running:
        yield running


class Tokens:
    """Texts of tokens, as `TrustTokens` gives them."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.failing = False

    async def token_text(self, jti: str) -> str | None:
        if self.failing:
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "the database does not answer; retry")
        return self.texts.get(jti)


@dataclass(kw_only=True)
class Desk:
    """A sender, and what it works with."""

    stores: Stores
    sender: MailSender
    tokens: Tokens
    clock: FakeClock
    failures: list[str] = field(default_factory=list)

    async def post(self, *, recipient: str = "ada@example.org", token: str = "v4.public.token", **fields: Any) -> str:
        """Put a mail with a link into the outbox; return its id."""
        mail = OutgoingMail(
            id=f"{next(_ids):032x}",
            **{"template": "magic_link", "recipient": recipient, "jti": "jti", **fields},
        )
        if mail.jti is not None:
            self.tokens.texts[mail.jti] = token

        async def work(tx: WriteTransaction) -> None:
            await add_mail(tx, mail, now=self.clock.now())

        await self.stores.database.write(work)
        return mail.id

    async def outcome(self, mail_id: str) -> str:
        """What the outbox says of a mail."""
        (row,) = await self.stores.database.fetch(sa.select(outbox.c.outcome).where(outbox.c.id == mail_id))
        return str(row["outcome"])

    async def until_due(self) -> float:
        """Let time pass until the mail that waits is due again; return how many seconds that took."""
        (row,) = await self.stores.database.fetch(
            sa.select(outbox.c.due_us).where(outbox.c.done_us.is_(None)).order_by(outbox.c.due_us).limit(1)
        )
        seconds = row["due_us"] / 1e6 - self.clock.now().timestamp()
        self.clock.advance(seconds)
        return float(seconds)


def _transport(url: str, **changes: Any) -> SmtpTransport:
    given: dict[str, Any] = {"password": None, "ca_file": None, "sender": SENDER, "timeout_seconds": 5.0}
    return SmtpTransport(url=url, **{**given, **changes})


def _desk(
    stores: Stores, transport: SmtpTransport, *, attempt_seconds: float = 5.0, box: Outbox | None = None
) -> Desk:
    clock, tokens = FakeClock(NOW), Tokens()
    failures: list[str] = []
    sender = MailSender(
        outbox=box or stores.outbox,
        tokens=tokens,
        texts=MailTemplates.load(None, needed=LINKS, default_locale="en"),
        transport=transport,
        links=LINKS,
        attempt_seconds=attempt_seconds,
        clock=clock,
        jitter=lambda: 0.5,
        random=counting_random,
        on_failure=lambda _, error: failures.append(str(error)),
    )
    return Desk(stores=stores, sender=sender, tokens=tokens, clock=clock, failures=failures)


def _plain(stores: Stores, server: Mailbox, **changes: Any) -> Desk:
    return _desk(stores, _transport(f"smtp://127.0.0.1:{server.port}"), **changes)


async def test_a_mail_arrives_with_its_link_and_says_that_a_program_wrote_it(stores: Stores, server: Mailbox) -> None:
    desk = _plain(stores, server)
    mail_id = await desk.post()
    assert await desk.sender.send_due() == 1
    (mail,) = server.taken
    assert "https://app.example/in?token=v4.public.token\n" in text_of(mail)
    assert (mail["From"], mail["To"]) == ("Example <no-reply@example.org>", "ada@example.org")
    assert mail["Message-ID"] == f"<{mail_id}@example.org>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime == NOW
    assert server.envelopes == [("no-reply@example.org", "ada@example.org")]
    assert await desk.outcome(mail_id) == "sent"
    assert await desk.sender.send_due() == 0
    assert desk.sender.outcomes["sent"] == 1


async def test_the_mail_is_in_the_language_of_the_person(stores: Stores, server: Mailbox) -> None:
    desk = _plain(stores, server)
    for locale in ("de-AT", "tlh", ""):
        await desk.post(locale=locale)
    await desk.sender.send_due()
    assert sorted(mail["Subject"] for mail in server.taken) == [
        "Ihr Link zum Anmelden",
        "Your link to log in",
        "Your link to log in",
    ]


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_mail_goes_over_tls_with_user_and_password(stores: Stores, tmp_path: Path, security: Security) -> None:
    ca = tmp_path / "mail.pem"
    scheme = {"tls": "smtps", "starttls": "smtp+starttls"}[security]
    with mail_server(security=security, certificate=ca) as server:
        transport = _transport(f"{scheme}://{USER}@localhost:{server.port}", password=SMTP_PASSWORD, ca_file=ca)
        desk = _desk(stores, transport)
        mail_id = await desk.post()
        await desk.sender.send_due()
        assert (await desk.outcome(mail_id), desk.failures) == ("sent", [])
        assert len(server.taken) == 1


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(
    stores: Stores, tmp_path: Path, security: Security
) -> None:
    scheme = {"tls": "smtps", "starttls": "smtp+starttls"}[security]
    other = tmp_path / "other.pem"
    self_signed(other)
    with mail_server(security=security, certificate=tmp_path / "mail.pem") as server:
        for ca, host in ((other, "localhost"), (None, "localhost"), (tmp_path / "mail.pem", "127.0.0.1")):
            transport = _transport(f"{scheme}://{USER}@{host}:{server.port}", password=SMTP_PASSWORD, ca_file=ca)
            with pytest.raises(MailError, match="certificate") as refused:
                await _send(transport)
            assert not refused.value.permanent
        assert server.attempts == 0


async def test_without_starttls_nothing_is_sent(server: Mailbox) -> None:
    with pytest.raises(MailError) as refused:
        await _send(_transport(f"smtp+starttls://{USER}@127.0.0.1:{server.port}", password=SMTP_PASSWORD))
    assert not refused.value.permanent
    assert server.attempts == 0


async def test_a_wrong_password_is_tried_again_later_and_said_without_it(tmp_path: Path) -> None:
    ca = tmp_path / "mail.pem"
    with mail_server(security="tls", certificate=ca) as server:
        transport = _transport(f"smtps://{USER}@localhost:{server.port}", password="not it", ca_file=ca)
        with pytest.raises(MailError, match=r"refused the user or password \(535\)") as refused:
            await _send(transport)
        assert not refused.value.permanent


async def _send(transport: SmtpTransport, recipient: str = "ada@example.org") -> None:
    letter = Letter(subject="Subject", text="Text")
    await transport.send(letter, mail_id="id", recipient=recipient, written_at=NOW)


@pytest.mark.parametrize("reply", ["550 no such user ada@example.org", "553 no"])
async def test_what_is_refused_for_good_is_not_tried_again(stores: Stores, server: Mailbox, reply: str) -> None:
    desk = _plain(stores, server)
    for where in ("recipient_reply", "data_reply"):
        mail_id = await desk.post()
        setattr(server, where, reply)
        await desk.sender.send_due()
        assert await desk.outcome(mail_id) == "failed"
        server.recipient_reply, server.data_reply = "", "250 taken"
    assert "ada" not in str(desk.failures)
    assert server.taken == []


async def test_what_is_refused_for_now_is_tried_again_ever_later_and_then_given_up(
    stores: Stores, server: Mailbox
) -> None:
    desk = _plain(stores, server)
    mail_id = await desk.post()
    server.recipient_reply = "451 greylisted"
    delays = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert await desk.outcome(mail_id) == ""
        assert await desk.sender.send_due() == 1
        if attempt < MAX_ATTEMPTS:
            delays.append(await desk.until_due())
    assert await desk.outcome(mail_id) == "failed"
    assert delays[:4] == [30, 60, 120, 240]
    assert delays[-1] == 3_600
    assert desk.sender.outcomes == {"sent": 0, "failed": 1, "expired": 0, "retried": MAX_ATTEMPTS - 1}


async def test_a_mail_whose_senders_all_died_is_given_up(stores: Stores, server: Mailbox) -> None:
    desk = _plain(stores, server)
    mail_id = await desk.post()
    for _ in range(MAX_ATTEMPTS):
        (_,) = await stores.outbox.claim(now=desk.clock.now(), until=desk.clock.now() + HOUR, limit=1)
        desk.clock.advance(3_600)
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == "failed"
    assert server.taken == []


@pytest.mark.parametrize("behaviour", ["hang", "drop"])
async def test_a_server_that_hangs_or_drops_gets_the_same_mail_again(
    stores: Stores, server: Mailbox, behaviour: Any
) -> None:
    desk = _plain(stores, server, attempt_seconds=0.5 if behaviour == "hang" else 5.0)
    mail_id = await desk.post()
    server.on_data = behaviour
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == ""
    server.on_data = "take"
    await desk.until_due()
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == "sent"
    assert len(server.taken) == 1


async def test_a_mail_that_was_taken_without_a_word_comes_again_with_the_same_id_and_date(
    stores: Stores, server: Mailbox
) -> None:
    desk = _plain(stores, server)
    await desk.post()
    server.on_data = "take and drop"
    await desk.sender.send_due()
    server.on_data = "take"
    await desk.until_due()
    await desk.sender.send_due()
    first, second = server.taken
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Date"] == second["Date"]
    assert first.as_bytes() == second.as_bytes()


async def test_a_server_that_is_not_there_is_tried_again(stores: Stores, server: Mailbox) -> None:
    with mail_server() as gone:
        port = gone.port
    desk = _desk(stores, _transport(f"smtp://127.0.0.1:{port}"))
    mail_id = await desk.post()
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == ""
    assert "cannot be reached" in desk.failures[0]


async def test_a_mail_whose_token_is_no_good_any_more_is_not_sent(stores: Stores, server: Mailbox) -> None:
    desk = _plain(stores, server)
    mail_id = await desk.post()
    desk.tokens.texts.clear()
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == "expired"
    assert server.attempts == 0


async def test_a_mail_waits_while_its_token_cannot_be_made(stores: Stores, server: Mailbox) -> None:
    desk = _plain(stores, server)
    mail_id = await desk.post()
    desk.tokens.failing = True
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == ""
    desk.tokens.failing = False
    await desk.until_due()
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == "sent"


async def test_one_mail_that_cannot_be_sent_holds_up_no_other(stores: Stores, server: Mailbox) -> None:
    desk = _plain(stores, server)
    without_url = await desk.post(template="password_reset")
    good = [await desk.post() for _ in range(3)]
    await desk.sender.send_due()
    assert [await desk.outcome(mail_id) for mail_id in good] == ["sent"] * 3
    assert await desk.outcome(without_url) == ""


@pytest.mark.parametrize(
    "recipient",
    ["a@example.org\r\nBcc: b@example.org", "a@example.org, b@example.org", "a@example.org> SIZE=1", "", "nobody"],
)
async def test_what_is_no_address_gets_into_no_header_and_no_command(
    stores: Stores, server: Mailbox, recipient: str
) -> None:
    desk = _plain(stores, server)
    mail_id = await desk.post(recipient=recipient)
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == "failed"
    assert server.attempts == 0


async def test_addresses_beyond_ascii_are_written_to_where_the_server_takes_them(
    stores: Stores, server: Mailbox
) -> None:
    desk = _plain(stores, server)
    await desk.post(recipient="ada@bücher.example")
    await desk.sender.send_due()
    await desk.post(recipient="ädä@bücher.example")
    await desk.sender.send_due()
    assert [recipient for _, recipient in server.envelopes] == ["ada@xn--bcher-kva.example", "ädä@bücher.example"]
    with mail_server(smtputf8=False) as old:
        desk = _plain(stores, old)
        mail_id = await desk.post(recipient="ädä@bücher.example")
        await desk.sender.send_due()
        assert await desk.outcome(mail_id) == "failed"


class _Forgetful:
    """An outbox that cannot be written to for a while."""

    def __init__(self, outbox: Outbox, failures: int) -> None:
        self._outbox = outbox
        self._failures = failures
        self.claim, self.postpone, self.waiting = outbox.claim, outbox.postpone, outbox.waiting

    async def settle(self, claimed: ClaimedMail, outcome: MailOutcome, *, now: datetime) -> None:
        self._failures -= 1
        if self._failures >= 0:
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "the database is busy; retry")
        await self._outbox.settle(claimed, outcome, now=now)


async def test_a_sent_mail_is_marked_as_soon_as_storage_lets_it(
    stores: Stores, server: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowless.services.outbox._IDLE_SECONDS", 0.0)
    desk = _plain(stores, server, box=_Forgetful(stores.outbox, 3))
    mail_id = await desk.post()
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == "sent"
    assert len(server.taken) == 1


async def test_a_sender_that_was_stopped_for_longer_than_its_claim_sends_nothing(
    stores: Stores, server: Mailbox
) -> None:
    desk = _plain(stores, server)
    mail_id = await desk.post()
    tokens = desk.tokens
    real = tokens.token_text

    async def after_a_long_pause(jti: str) -> str | None:
        desk.clock.advance(desk.sender.lease.total_seconds())
        return await real(jti)

    tokens.token_text = after_a_long_pause  # type: ignore[method-assign]
    await desk.sender.send_due()
    assert await desk.outcome(mail_id) == ""
    assert server.attempts == 0


async def test_a_test_mail_needs_no_outbox(stores: Stores, server: Mailbox) -> None:
    desk = _plain(stores, server)
    await desk.sender.send_test("ada@example.org")
    (mail,) = server.taken
    assert mail["Subject"] == "Test mail"
    server.recipient_reply = "550 no ada@example.org here"
    with pytest.raises(MailError, match=r"refused the recipient \(550\)"):
        await desk.sender.send_test("ada@example.org")
