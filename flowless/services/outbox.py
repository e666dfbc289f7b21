"""Sends the mail that waits in the outbox, from every replica, each mail from one at a time.

A sender first claims a mail: it is then due again only after the claim's lease, which is longer than an attempt may
take. It makes the token's text anew, hands the mail over, and marks it. What follows from that order:

- A crash before the mail server has taken the mail loses nothing: the lease ends, and another sender takes its turn.
- A crash after the mail is marked doubles nothing.
- Between the server's word and the mark is a gap that nobody can close from outside: a crash there, or a connection
  that is lost before the server's word arrives, sends the mail **twice, with the same Message-ID**, by which
  mailboxes may know it. The two carry the same single-use token.

Leases are compared by the wall clocks of replicas, which must not differ by more than `_SKEW`.

Shared state: counters, and the flag that says to stop, touched by the event loop only; the metrics thread reads
numbers.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from flowless.domain.links import link_of
from flowless.domain.mail import ClaimedMail, Letter, MailError, MailOutcome
from flowless.ports.mail import MailTexts, MailTransport, Outbox, TokenTexts
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import TrustError
from trust_core.identifiers import RandomBytes

BATCH: Final = 8
"""Mails that one process sends at a time."""
MAX_ATTEMPTS: Final = 12
"""With the delays below some six hours; a mail with a token ends with its token anyway."""
_FIRST_DELAY: Final = timedelta(seconds=30)
_LONGEST_DELAY: Final = timedelta(hours=1)
_SKEW: Final = timedelta(seconds=60)
_IDLE_SECONDS: Final = 1.0
_COUNT_NS: Final = 15 * NS_PER_SECOND
_MARKS: Final = 10
TEST_TEMPLATE: Final = "test"


class MailSender:
    """See the module."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        tokens: TokenTexts,
        texts: MailTexts,
        transport: MailTransport,
        links: Mapping[str, str],
        attempt_seconds: float,
        clock: Clock,
        jitter: Callable[[], float],
        random: RandomBytes,
        on_failure: Callable[[str, Exception], None],
    ) -> None:
        """`links`: template -> URL with `{token}`. `jitter` gives numbers in [0, 1).

        `on_failure` is told the mail's id, or nothing when it was none's, and why.
        """
        self._outbox = outbox
        self._tokens = tokens
        self._texts = texts
        self._transport = transport
        self._links = links
        self._attempt_seconds = attempt_seconds
        self._clock = clock
        self._jitter = jitter
        self._random = random
        self._on_failure = on_failure
        self._stopping = asyncio.Event()
        self._counted_ns: int | None = None
        self.outcomes: dict[str, int] = dict.fromkeys(("sent", "failed", "expired", "retried"), 0)
        self.waiting = 0

    @property
    def lease(self) -> timedelta:
        """How long a claimed mail is left to its sender."""
        # The text of the token is read before, the outcome is written after.
        return timedelta(seconds=2 * self._attempt_seconds) + _SKEW

    async def send_test(self, recipient: str) -> None:
        """Send a mail that says that mail works. Raises MailError."""
        letter = self._texts.letter(TEST_TEMPLATE, locale="", link="", expires_at=None)
        await self._handed_over(letter, self._random(16).hex(), recipient)

    async def send_due(self) -> int:
        """Claim mails that are due and see each to its end or its next turn; return how many. Errors: storage's."""
        # A process that was stopped for a while in between must not send under a lease that has ended.
        latest_ns = self._clock.elapsed_ns() + round(self._attempt_seconds * NS_PER_SECOND)
        now = self._clock.now()
        claimed = await self._outbox.claim(now=now, until=now + self.lease, limit=BATCH)
        async with asyncio.TaskGroup() as group:
            for each in claimed:
                group.create_task(self._see_to(each, latest_ns))
        return len(claimed)

    async def run(self) -> None:
        """Send what is due until told to stop. Storage that fails is tried again."""
        while not self._stopping.is_set():
            try:
                sent = await self.send_due()
                await self._count()
            except Exception as error:  # noqa: BLE001 - whatever it is, the mails wait for the next round
                self._on_failure("", error)
                sent = 0
            if sent < BATCH:
                await self._pause(_IDLE_SECONDS)

    def stop(self) -> None:
        """Claim no more. `run` returns when what is being sent has come to its end, which is bounded."""
        self._stopping.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _count(self) -> None:
        now_ns = self._clock.elapsed_ns()
        if self._counted_ns is None or now_ns - self._counted_ns >= _COUNT_NS:
            self.waiting = await self._outbox.waiting()
            self._counted_ns = now_ns

    async def _see_to(self, claimed: ClaimedMail, latest_ns: int) -> None:
        outcome: MailOutcome | None
        try:
            outcome = await self._outcome(claimed, latest_ns)
        except Exception as error:  # noqa: BLE001 - one mail's trouble is not the others'
            self._on_failure(claimed.mail.id, error)
            is_permanent = isinstance(error, MailError) and error.permanent
            outcome = MailOutcome.FAILED if is_permanent or claimed.attempt >= MAX_ATTEMPTS else None
        await self._note(claimed, outcome)

    async def _outcome(self, claimed: ClaimedMail, latest_ns: int) -> MailOutcome:
        mail = claimed.mail
        if claimed.attempt > MAX_ATTEMPTS:
            raise MailError("whoever tried it did not live to say what became of it, too often")
        link = ""
        if mail.jti is not None:
            url = self._links.get(mail.template)
            if url is None:
                raise MailError(f"link_urls has no URL for {mail.template}")
            text = await self._tokens.token_text(mail.jti)
            if text is None:
                return MailOutcome.EXPIRED
            link = link_of(url, text)
        letter = self._texts.letter(mail.template, locale=mail.locale, link=link, expires_at=claimed.expires_at)
        if self._clock.elapsed_ns() > latest_ns:
            raise MailError("its turn came too late to be sent under this claim")
        await self._handed_over(letter, mail.id, mail.recipient, claimed)
        return MailOutcome.SENT

    async def _handed_over(
        self, letter: Letter, mail_id: str, recipient: str, claimed: ClaimedMail | None = None
    ) -> None:
        # The same date at each attempt: a mail that arrives twice is the same mail.
        written_at = self._clock.now() if claimed is None else claimed.created_at
        try:
            async with asyncio.timeout(self._attempt_seconds):
                await self._transport.send(letter, mail_id=mail_id, recipient=recipient, written_at=written_at)
        except TimeoutError:
            raise MailError(f"the mail server took longer than {self._attempt_seconds:g} s") from None

    async def _note(self, claimed: ClaimedMail, outcome: MailOutcome | None) -> None:
        """Write down what became of a mail, several times if need be: a mail sent and not marked is sent again."""
        for _ in range(_MARKS):
            try:
                if outcome is None:
                    await self._outbox.postpone(claimed, due=self._clock.now() + self._delay(claimed.attempt))
                else:
                    await self._outbox.settle(claimed, outcome, now=self._clock.now())
            except TrustError as error:
                self._on_failure(claimed.mail.id, error)
                await asyncio.sleep(_IDLE_SECONDS)
            else:
                break
        self.outcomes["retried" if outcome is None else outcome.value] += 1

    def _delay(self, attempt: int) -> timedelta:
        """Twice as long each time, give or take a half, so that mails that failed together do not come together."""
        delay: timedelta = _FIRST_DELAY * 2 ** min(attempt - 1, MAX_ATTEMPTS)
        return min(delay, _LONGEST_DELAY) * (0.5 + self._jitter())
