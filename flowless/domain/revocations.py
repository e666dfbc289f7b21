"""The revocation log: every change that a cached session must not survive, in one order."""

from dataclasses import dataclass
from typing import Literal

Subject = Literal["session", "user", "bridge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One row of the log. Revisions are consecutive, beginning with 1.

    `subject` names whom it concerns and `key` which: a session's digest as hex, a user id, a bridge id.
    """

    revision: int
    subject: Subject
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """The end of the log as one snapshot of storage shows it.

    `log_id` names the log itself, so that revisions of two databases are never mixed up. Rows up to and
    including `compacted_through` are gone and cannot be replayed. Somebody waits until every replica has acknowledged
    the log up to `barrier_revision`. `member`: the replica that reads stands in the table of replicas, undoubted, in
    the same snapshot, so whoever waits knows of it.
    """

    log_id: str
    revision: int
    compacted_through: int
    barrier_revision: int = 0
    member: bool = True
