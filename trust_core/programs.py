"""How a program of ours starts another of ours: with the same interpreter, and modules from the same places."""

import sys


def python_command(module: str, *arguments: str) -> list[str]:
    """Command line of `python -m MODULE ARGUMENT…` that finds modules where this process does.

    As `-m` this process has its directory on the path, as a script it has not: nor may what it starts then.
    """
    safe = [] if sys.modules["__main__"].__spec__ is not None and not sys.flags.safe_path else ["-P"]
    return [sys.executable, *safe, "-m", module, *arguments]
