"""Become another program that the kernel ends when the process that started it is gone.

`python die_with_parent.py [--signal NUMBER] [--user UID:GID] PARENT_PID PROGRAM [ARGUMENT…]`

`prctl(PR_SET_PDEATHSIG)` survives `execv`, so the program itself runs with its own command line, process id and
memory. Setting it here, in a process of its own, spares `subprocess` a `preexec_fn`, which is unsafe in a parent
that has threads (gRPC has). Elsewhere than on Linux there is no such call, and the program just starts.

The signal (SIGKILL unless given) follows the *thread* that started the process: start from one that lives as long
as the process should. `--user` gives up root first: a change of user clears the request for the signal.
"""

import argparse
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Give up root if told to, ask for the signal, make sure that it was not too late, and become the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--signal", type=int, default=int(signal.SIGKILL))
    parser.add_argument("--user", default="")
    parser.add_argument("parent", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.user:
        uid, gid = map(int, arguments.user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, arguments.signal, 0, 0, 0)
    if os.getppid() != arguments.parent:
        raise SystemExit("the process that started this one is gone")
    os.execv(arguments.command[0], arguments.command)


if __name__ == "__main__":
    main()
