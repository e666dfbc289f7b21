"""A program that hashes: reads jobs from the socket that is its standard input, one at a time, and answers there.

It is a process of its own so that hashing takes neither the server's interpreter lock nor its priority, and imports
only what hashing needs. It ends when its parent does, however that ended, since then the socket does. It does not end
by the signals that tell a group or a service to stop: the server drains first.
"""

import contextlib
import os
import signal
import sys
from typing import Final

import argon2

from flowless.adapters.passwords import jobs
from flowless.adapters.passwords.profiles import PROFILES, TESTING_PROFILE

ENDED_BY_PARENT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NICE: Final = 19
_SOCKET: Final = 0


def main(profile: str) -> None:
    """Work until the parent is gone."""
    for number in ENDED_BY_PARENT:
        signal.signal(number, signal.SIG_IGN)
    if profile != TESTING_PROFILE:  # whose hashes cost less than waiting for one's turn behind other tests
        _stand_back()
    hasher = argon2.PasswordHasher.from_parameters(PROFILES[profile])
    with (
        contextlib.suppress(ConnectionError),
        open(_SOCKET, "rb", closefd=False) as asked,
        open(_SOCKET, "wb", closefd=False) as answers,
    ):
        while True:
            head = asked.read(jobs.LENGTH.size)
            if len(head) < jobs.LENGTH.size:
                return
            answer = jobs.perform(asked.read(*jobs.LENGTH.unpack(head)), hasher)
            answers.write(jobs.LENGTH.pack(len(answer)) + answer)
            answers.flush()


def _stand_back() -> None:
    """Let the server's event loop come first: a storm of logins takes what time validations leave."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)


if __name__ == "__main__":
    main(sys.argv[1])
