"""Mail that waits, in every store."""

import asyncio
import itertools
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flowless.adapters.sql.database import WriteTransaction
from flowless.adapters.sql.outbox import add_mail
from flowless.adapters.sql.schema import outbox
from flowless.domain.mail import MailOutcome, OutgoingMail
from tests.support.stores import NOW, SECOND, Stores

_ids = itertools.count(1)
LEASE = timedelta(seconds=60)


async def _add(stores: Stores, *, now: datetime = NOW, never: bool = False, **fields: Any) -> OutgoingMail:
    mail = OutgoingMail(id=f"{next(_ids):032x}", template="email_changed", recipient="ada@example.org", **fields)

    async def work(tx: WriteTransaction) -> None:
        await add_mail(tx, mail, now=now, never=never)

    await stores.database.write(work)
    return mail


async def _row(stores: Stores, mail: OutgoingMail) -> sa.RowMapping:
    (row,) = await stores.database.fetch(sa.select(outbox).where(outbox.c.id == mail.id))
    return row


async def test_a_mail_is_claimed_as_it_was_written(stores: Stores) -> None:
    mail = await _add(stores, locale="pt-BR")
    (claimed,) = await stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=10)
    assert (claimed.mail, claimed.attempt, claimed.created_at, claimed.expires_at) == (mail, 1, NOW, None)


async def test_a_claimed_mail_is_nobody_elses_until_the_lease_ends(stores: Stores) -> None:
    mail = await _add(stores)
    assert await stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=10)
    almost = NOW + LEASE - timedelta(microseconds=1)
    assert await stores.outbox.claim(now=almost, until=almost + LEASE, limit=10) == []
    (again,) = await stores.outbox.claim(now=NOW + LEASE, until=NOW + 2 * LEASE, limit=10)
    assert (again.mail, again.attempt) == (mail, 2)


async def test_a_mail_that_is_not_due_yet_is_left_alone(stores: Stores) -> None:
    await _add(stores, now=NOW + SECOND)
    assert await stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=10) == []


async def test_what_is_due_longest_is_claimed_first_and_no_more_than_asked_for(stores: Stores) -> None:
    mails = [await _add(stores, now=NOW + number * SECOND) for number in (3, 1, 2)]
    later = NOW + 5 * SECOND
    first = await stores.outbox.claim(now=later, until=later + LEASE, limit=2)
    assert {each.mail.id for each in first} == {mails[1].id, mails[2].id}


@pytest.mark.parametrize("outcome", [MailOutcome.SENT, MailOutcome.FAILED, MailOutcome.EXPIRED])
async def test_a_settled_mail_is_never_claimed_again_and_names_nobody(stores: Stores, outcome: MailOutcome) -> None:
    mail = await _add(stores)
    (claimed,) = await stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=10)
    assert await stores.outbox.waiting() == 1
    await stores.outbox.settle(claimed, outcome, now=NOW + SECOND)
    assert await stores.outbox.claim(now=NOW + 9 * LEASE, until=NOW + 10 * LEASE, limit=10) == []
    row = await _row(stores, mail)
    assert (row["outcome"], row["recipient"]) == (outcome.value, "")
    assert await stores.outbox.waiting() == 0


async def test_a_postponed_mail_is_due_when_that_was_said(stores: Stores) -> None:
    await _add(stores)
    (claimed,) = await stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=10)
    await stores.outbox.postpone(claimed, due=NOW + 5 * SECOND)
    assert await stores.outbox.claim(now=NOW + 4 * SECOND, until=NOW + LEASE, limit=10) == []
    (again,) = await stores.outbox.claim(now=NOW + 5 * SECOND, until=NOW + LEASE, limit=10)
    assert again.attempt == 2


async def test_who_lost_a_claim_cannot_say_what_became_of_the_mail(stores: Stores) -> None:
    mail = await _add(stores)
    (lost,) = await stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=10)
    (held,) = await stores.outbox.claim(now=NOW + LEASE, until=NOW + 2 * LEASE, limit=10)
    await stores.outbox.settle(lost, MailOutcome.FAILED, now=NOW + LEASE)
    await stores.outbox.postpone(lost, due=NOW)
    assert await stores.outbox.claim(now=NOW + LEASE, until=NOW + 2 * LEASE, limit=10) == []
    await stores.outbox.settle(held, MailOutcome.SENT, now=NOW + LEASE)
    assert (await _row(stores, mail))["outcome"] == "sent"


async def test_a_mail_that_is_never_sent_is_not_claimed_and_names_nobody(stores: Stores) -> None:
    mail = await _add(stores, never=True)
    assert await stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=10) == []
    assert (await _row(stores, mail))["recipient"] == ""


async def test_of_many_who_claim_at_once_each_mail_goes_to_one(stores: Stores) -> None:
    mails = [await _add(stores) for _ in range(20)]
    claims = await asyncio.gather(
        *(stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=3) for _ in range(12)),
    )
    ids = [each.mail.id for claim in claims for each in claim]
    assert len(ids) == len(set(ids))
    rest = await stores.outbox.claim(now=NOW, until=NOW + LEASE, limit=20)
    assert sorted(ids + [each.mail.id for each in rest]) == [mail.id for mail in mails]
