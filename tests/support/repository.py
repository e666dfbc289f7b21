"""The repository as files: what is in it, and what its locks pin."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

ROOT: Final = Path(__file__).resolve().parents[2]

_NOT_OURS: Final = {"__pycache__", "build", "dist"}
_HIDDEN_OURS: Final = {".ci", ".github"}
_URL: Final = re.compile(r"[a-z+]+://[^\s'\"]+")
_INDEX_SHAPED: Final = re.compile(
    r"https?://[^\s'\"]+/simple\b|(?i:index[-_]url|find[-_]links)\b['\"]?[\s=:]+['\"]?(?:\w+:/)?/"
)
_PERSONAL_DIRECTORY: Final = re.compile(r"(?<![\w.~*/-])/(?:root|home/[\w.-]+|Users/[\w.-]+)(?![\w-])")


def files() -> list[Path]:
    """Every file that is or could be committed; asks git, and walks where there is no git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return sorted(_walk(ROOT))
    names = (os.fsdecode(name) for name in listed.split(b"\0") if name)
    return sorted(path for path in map(ROOT.joinpath, names) if path.is_file())


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            hidden = path.name.startswith(".") and path.name not in _HIDDEN_OURS
            if not hidden and path.name not in _NOT_OURS and not path.name.endswith(".egg-info"):
                yield from _walk(path)
        elif path.is_file() and not path.name.startswith(".coverage"):
            yield path


def addresses_in(text: str) -> list[str]:
    """Package index addresses and paths of this machine in the text.

    Which ones there are is asked of this machine's own tools: a list of them here would be a find itself.
    """
    found = [match[0] for pattern in (_INDEX_SHAPED, _PERSONAL_DIRECTORY) for match in pattern.finditer(text)]
    return found + [address for address in _ADDRESSES if re.search(rf"{re.escape(address)}(?![\w-])", text)]


def pinned(lock: Path) -> dict[str, tuple[str, int]]:
    """Package -> its exact version and the number of its hashes; a second version names its condition too."""
    pins: dict[str, tuple[str, int]] = {}
    for block in re.split(r"(?m)^(?=[A-Za-z0-9])", lock.read_text()):
        if match := re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.!+]+)( ;[^\\\n]+)?", block):
            name = match[1].lower()
            pins[name + (match[3] or "") if name in pins else name] = (
                match[2],
                len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)),
            )
    return pins


def _installer_settings() -> Iterator[str]:
    """Where pip and uv are told to look for packages on this machine."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    named = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))]
    for setting in [*named, *listed.stdout.splitlines()]:
        name, _, value = setting.partition("=")
        if re.search(r"(?i)index|links|proxy|host", name):
            yield value


def _addresses() -> Iterator[str]:
    built_in = importlib.import_module("pip._internal.models.index").PyPI
    yield from (built_in.netloc, built_in.file_storage_domain)
    for setting in _installer_settings():
        yield from (host for url in _URL.findall(setting) if (host := urlsplit(url).hostname))
        yield from (part for part in re.findall(r"(?<![\w/:])/[\w./-]+", setting) if part.count("/") > 1)
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() fails for a user without an entry
    # A path of one part, like `/app`, is no more this machine's than any other's.
    yield from (str(path) for path in {ROOT, Path(sys.base_prefix), home} if len(path.parts) > 2)


_ADDRESSES: Final = sorted(set(_addresses()))
