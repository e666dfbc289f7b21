"""Become another program that the kernel kills when the process that started it is gone.

`python die_with_parent.py PARENT_PID PROGRAM [ARGUMENT…]`

`prctl(PR_SET_PDEATHSIG)` survives `execv`, so the program itself runs with its own command line, process id and
memory. Setting it here, in a process of its own, spares `subprocess` a `preexec_fn`, which is unsafe in a parent
that has threads (gRPC has). Elsewhere than on Linux there is no such call, and the program just starts.

The signal follows the *thread* that started the process: start from one that lives as long as the process should.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, make sure that it was not too late, and become the program."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        raise SystemExit("the process that started this one is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
