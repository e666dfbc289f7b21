"""Mail that a real Flowless sends to a real SMTP server, and what a crash at each moment does to it."""

import re
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.flowless import PASSWORD, Flowless, outcome, prepare, running_flowless, served
from tests.support.links import AUDIENCE, HOUR, Links
from tests.support.smtp import Mailbox, mail_server, text_of
from tools.processes import free_port
from trustlayer.v1 import identity_pb2, trust_token_pb2, types_pb2

pytestmark = pytest.mark.long

MAIL = trust_token_pb2.TRUST_TOKEN_DELIVERY_MAIL
PURPOSES = ("magic_link", "password_reset", "email_verify", "email_change", "invitation")
LINK_URLS = "{" + ",".join(f'"{name}": "https://app.example/{name}?token={{token}}"' for name in PURPOSES) + "}"
_SECONDS = 20.0


@pytest.fixture
def server() -> Iterator[Mailbox]:
    with mail_server() as running:
        yield running


def _settings(server: Mailbox, **more: str) -> dict[str, str]:
    return {
        "smtp_url": f"smtp://127.0.0.1:{server.port}",
        "mail_from": "Example <no-reply@example.org>",
        "link_urls": LINK_URLS,
        **more,
    }


@contextmanager
def _sending(directory: Path, server: Mailbox, **more: str) -> Iterator[Flowless]:
    with running_flowless(directory, **_settings(server, **more)) as flowless:
        yield flowless


def _token(text: str) -> str:
    (found,) = re.findall(r"https://app\.example/\w+\?token=(\S+)", text)
    return str(found)


def _mail_link(
    flowless: Flowless, subject: str, purpose: str = "magic_link"
) -> trust_token_pb2.IssueTrustTokenResponse:
    return Links(flowless.client).issued(purpose, subject, delivery=MAIL)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _outcomes(file: Path) -> list[str]:
    with closing(sqlite3.connect(file, timeout=10)) as connection:
        return [row[0] for row in connection.execute("SELECT outcome FROM outbox ORDER BY created_us, id")]


def _let_claims_end(file: Path) -> None:
    """As if the time had passed for which a mail is left to a sender."""
    with closing(sqlite3.connect(file, timeout=10)) as connection, connection:
        connection.execute("UPDATE outbox SET due_us = created_us")


def test_a_magic_link_that_goes_by_mail_logs_in_and_is_in_no_answer(run_dir: Path, server: Mailbox) -> None:
    with _sending(run_dir, server) as flowless:
        user = flowless.client.register()
        issued = _mail_link(flowless, user.email)
        assert issued.token == ""
        assert issued.HasField("expire_time")
        (mail,) = server.wait_for(1)
        assert mail["To"] == user.email
        token = _token(text_of(mail))
        assert Links(flowless.client).log_in(token).session_id
        _until(lambda: _outcomes(flowless.file) == ["sent"])
        with flowless.sql() as connection:
            kept = str(connection.execute("SELECT * FROM outbox").fetchall())
        for secret in (user.email, token):
            assert secret not in flowless.log_text
            assert secret not in kept


def test_for_an_address_that_nobody_has_the_answer_is_the_same_and_nothing_is_sent(
    run_dir: Path, server: Mailbox
) -> None:
    with _sending(run_dir, server) as flowless:
        nobody = _mail_link(flowless, "nobody@example.org", "password_reset")
        user = flowless.client.register()
        somebody = _mail_link(flowless, user.email, "password_reset")
        assert nobody.token == somebody.token == ""
        assert nobody.HasField("expire_time")
        assert [mail["To"] for mail in server.wait_for(1)] == [user.email]
        _until(lambda: _outcomes(flowless.file) == ["void", "sent"])
        assert len(server.taken) == 1


def test_a_change_of_address_writes_to_both_addresses(run_dir: Path, server: Mailbox) -> None:
    with _sending(run_dir, server) as flowless:
        user = flowless.client.register(locale="de-AT")
        flowless.client.identity.StartEmailChange(
            identity_pb2.StartEmailChangeRequest(
                user_id=user.id,
                new_email="new@example.org",
                current_password=PASSWORD,
                audience=AUDIENCE,
                lifetime=HOUR,
                delivery=MAIL,
                context=types_pb2.RequestContext(client_ip="203.0.113.7"),
            )
        )
        server.wait_for(2)
        assert "soll geändert werden" in {m["To"]: str(m["Subject"]) for m in server.taken}[user.email]
        Links(flowless.client).confirm_email(_token(server.text_to("new@example.org")))
        assert str(server.wait_for(3)[2]["Subject"]) == "Ihre E-Mail-Adresse wurde geändert"
        assert server.taken[2]["To"] == user.email


def test_a_purpose_without_a_url_is_refused(run_dir: Path, server: Mailbox) -> None:
    links = '{"magic_link": "https://app.example/in?token={token}"}'
    with _sending(run_dir, server, link_urls=links) as flowless:
        email = flowless.client.register().email
        refused = outcome(lambda: _mail_link(flowless, email, "password_reset"))
        assert refused == ("FAILED_PRECONDITION", "MAIL_NOT_CONFIGURED")
        assert outcome(lambda: _mail_link(flowless, email)) == ("OK", "")


def test_a_link_that_was_superseded_before_it_went_out_is_not_sent(run_dir: Path) -> None:
    file, secret = prepare(run_dir)
    port = free_port()
    nowhere = Mailbox(port=port)
    with served(run_dir, file, secret, **_settings(nowhere)) as flowless:
        user = flowless.client.register()
        _mail_link(flowless, user.email)
        _until(lambda: "mail was not sent" in flowless.log_text)
        _mail_link(flowless, user.email)
    with mail_server() as server, served(run_dir, file, secret, **_settings(server)):
        _let_claims_end(file)
        _until(lambda: sorted(_outcomes(file)) == ["expired", "sent"])
        assert len(server.taken) == 1


@contextmanager
def _killed_while(
    run_dir: Path, server: Mailbox, moment: Callable[[Flowless], None]
) -> Iterator[tuple[Path, dict[str, str], str]]:
    """Kill a Flowless that sends a mail at a moment; give what another one over its database needs."""
    file, secret = prepare(run_dir)
    with served(run_dir, file, secret, **_settings(server)) as flowless:
        email = flowless.client.register().email
        _mail_link(flowless, email)
        moment(flowless)
        flowless.process.signal(signal.SIGKILL)
        flowless.process.wait(_SECONDS)
    yield file, _settings(server), secret


def test_killed_before_the_server_took_the_mail_it_is_sent_once(run_dir: Path, server: Mailbox) -> None:
    server.on_data = "hang"

    def moment(_: Flowless) -> None:
        server.wait_for_attempts(1)

    with _killed_while(run_dir, server, moment) as (file, settings, secret):
        server.on_data = "take"
        assert _outcomes(file) == [""]
        with served(run_dir, file, secret, **settings) as flowless:
            # The claim of the one that was killed still holds: another mail is sent, this one is not yet.
            other = flowless.client.register().email
            _mail_link(flowless, other)
            _until(lambda: _outcomes(file) == ["", "sent"])
            assert [mail["To"] for mail in server.taken] == [other]
            _let_claims_end(file)
            _until(lambda: _outcomes(file) == ["sent", "sent"])
    assert len(server.taken) == 2


def test_killed_after_the_mail_was_marked_it_is_not_sent_again(run_dir: Path, server: Mailbox) -> None:
    def moment(flowless: Flowless) -> None:
        _until(lambda: _outcomes(flowless.file) == ["sent"])

    with (
        _killed_while(run_dir, server, moment) as (file, settings, secret),
        served(run_dir, file, secret, **settings) as flowless,
    ):
        _let_claims_end(file)
        # One that is sent after it shows that there was time to send it again.
        _mail_link(flowless, flowless.client.register().email)
        _until(lambda: _outcomes(file) == ["sent", "sent"])
    assert len(server.taken) == 2
    assert len({mail["Message-ID"] for mail in server.taken}) == 2


def test_killed_before_anybody_took_it_up_it_is_sent_once(run_dir: Path, server: Mailbox) -> None:
    file, secret = prepare(run_dir)
    nowhere = Mailbox(port=free_port())
    with served(run_dir, file, secret, **_settings(nowhere)) as flowless:
        _mail_link(flowless, flowless.client.register().email)
        flowless.process.signal(signal.SIGKILL)
        flowless.process.wait(_SECONDS)
    with served(run_dir, file, secret, **_settings(server)):
        _let_claims_end(file)
        _until(lambda: _outcomes(file) == ["sent"])
    assert len(server.taken) == 1


def test_killed_between_the_servers_word_and_the_mark_it_is_sent_twice_with_one_message_id(
    run_dir: Path, server: Mailbox
) -> None:
    """The one gap, which no sender can close: it is stated, and this shows that it is as stated."""
    server.on_data = "take and hang"

    def moment(_: Flowless) -> None:
        server.wait_for(1)

    with _killed_while(run_dir, server, moment) as (file, settings, secret):
        server.on_data = "take"
        with served(run_dir, file, secret, **settings):
            _let_claims_end(file)
            _until(lambda: _outcomes(file) == ["sent"])
    first, second = server.taken
    assert first["Message-ID"] == second["Message-ID"]
    assert _token(text_of(first)) == _token(text_of(second))


def test_a_mail_on_its_way_is_brought_to_its_end_before_flowless_stops(run_dir: Path, server: Mailbox) -> None:
    server.on_data = "hang"
    with _sending(run_dir, server) as flowless:
        _mail_link(flowless, flowless.client.register().email)
        server.wait_for_attempts(1)
        flowless.process.signal(signal.SIGTERM)
        _until(lambda: "draining" in flowless.log_text)
        server.on_data = "take"
        assert flowless.process.wait(_SECONDS) == 0
        # The server, released, refused for now: that was noted, for the next who sends.
        with closing(sqlite3.connect(flowless.file)) as connection:
            ((attempts, due, created),) = connection.execute("SELECT attempts, due_us, created_us FROM outbox")
        assert attempts == 1
        assert 15e6 <= due - created <= 60e6


def test_two_replicas_send_each_mail_once(run_dir: Path, server: Mailbox) -> None:
    file, secret = prepare(run_dir)
    other = run_dir / "other"
    other.mkdir()
    (other / "signing-key").write_text((run_dir / "signing-key").read_text())
    with (
        served(run_dir, file, secret, **_settings(server)) as one,
        served(other, file, secret, **_settings(server)) as two,
    ):
        users = [one.client.register() for _ in range(20)]
        for number, user in enumerate(users):
            _mail_link((one, two)[number % 2], user.email)
        _until(lambda: _outcomes(file) == ["sent"] * 20)
    assert sorted(mail["To"] for mail in server.taken) == sorted(user.email for user in users)


def test_metrics_count_what_was_sent(run_dir: Path, server: Mailbox) -> None:
    port = free_port()
    with _sending(run_dir, server, metrics_listen=f"127.0.0.1:{port}") as flowless:
        _mail_link(flowless, flowless.client.register().email)
        _until(lambda: _outcomes(flowless.file) == ["sent"])

        def text() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_SECONDS) as answer:
                return str(answer.read().decode())

        _until(lambda: 'flowless_mail_attempts_total{outcome="sent"} 1.0' in text())
        assert "flowless_mail_waiting" in text()


def _command(flowless: Flowless, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {f"FLOWLESS_{name.upper()}": v for name, v in settings.items()}
    return flowless.process.try_command(*arguments, environment=environment)


def test_the_command_sends_a_test_mail_or_says_why_not(run_dir: Path, server: Mailbox) -> None:
    with _sending(run_dir, server) as flowless:
        assert _command(flowless, "mail", "test", "ada@example.org").returncode == 0
        assert server.wait_for(1)[0]["Subject"] == "Test mail"
        server.recipient_reply = "550 5.1.1 ada@example.org unknown"
        refused = _command(flowless, "mail", "test", "ada@example.org")
        assert refused.returncode == 1
        assert "refused the recipient (550)" in refused.stderr
        assert "ada@" not in refused.stderr
        doctor = _command(flowless, "doctor")
        assert "sent for email_change" in doctor.stdout
        templates = run_dir / "templates"
        templates.mkdir()
        (templates / "magic_link.en.txt").write_text("Subject\n\nHello $name\n")
        broken = _command(flowless, "mail", "test", "ada@example.org", mail_templates_dir=str(templates))
        assert broken.returncode == 4
        assert "magic_link.en.txt" in broken.stderr


def test_without_a_mail_server_the_command_says_what_to_set(run_dir: Path) -> None:
    with running_flowless(run_dir) as flowless:
        refused = _command(flowless, "mail", "test", "ada@example.org")
        assert refused.returncode == 4
        assert "smtp_url" in refused.stderr
        email: Any = flowless.client.register().email
        assert outcome(lambda: _mail_link(flowless, email)) == ("FAILED_PRECONDITION", "MAIL_NOT_CONFIGURED")
