"""Do what the Dockerfiles in `deploy/images` say, without a container engine: each image becomes a directory.

`python -m tools.image_root [NAME…]` reads `deploy/images/NAME.Dockerfile` and carries out its own instructions, in a
root that mmdebstrap makes of Debian's packages and that has nothing of this machine: the result is
`build/images/NAME/root` and, beside it, `image.json` with what an engine would keep of ENV, USER, ENTRYPOINT and the
like. `tools/contained.py` starts it as a cluster would. At the end it prints sizes.

Needs Linux, mmdebstrap, Debian's mirror and the package index. Root, or a user with subordinate ids
(`/etc/subuid`), as whom it goes into a user namespace of its own. An engine's base image is smaller by documents and
translations, which is all the difference to mmdebstrap's; no file of it is in the result by itself.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tools.build_context import ROOT, BuildContext
from tools.dockerfile import DockerfileError, Instruction, Stage, read_stages

DOCKERFILES: Final = ROOT / "deploy" / "images"
BUILT: Final = ROOT / "build" / "images"
_BASES: Final = ROOT / ".venv" / ".cache" / "images"
_BASE_NAME: Final = re.compile(r"debian:([a-z]+)-slim")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OF_THE_BUILDER: Final = re.compile(r"(?i)pip_(?!find|user|no_cache)\w+|(?:https?|no|all)_proxy")
"""Variables that say how this machine reaches package indexes; an engine's builder has the like."""
_CERTIFICATES: Final = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")

_IN_ROOT: Final = r"""
set -eu
root=$1 directory=$2 command=$3
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/builder"
[ -z "${BUILDER_CA:-}" ] || cp "$BUILDER_CA" "$root/run/builder/ca.crt"
if [ -e /etc/resolv.conf ]; then
    touch "$root/etc/resolv.conf"
    mount --bind "$(readlink -f /etc/resolv.conf)" "$root/etc/resolv.conf"
fi
[ ! -d /etc/apt/apt.conf.d ] || mount --bind /etc/apt/apt.conf.d "$root/etc/apt/apt.conf.d"
unset BUILDER_CA
exec chroot "$root" /bin/sh -c 'cd "$1" && exec /bin/sh -c "$2"' sh "$directory" "$command"
"""
"""Runs in a mount namespace of its own, with which all of its mounts end."""


@dataclass(slots=True)
class Image:
    """What an engine keeps of an image beside its files."""

    user: str = ""
    directory: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)


class Builder:
    """Carries out stages. One directory per stage; removed at the end, apart from the last one."""

    def __init__(self, *, work: Path, context: BuildContext) -> None:
        """`work` is a directory that may be filled and emptied."""
        self._work = work
        self._context = context
        self._layers: dict[str, Path] = {}
        """What has been built of instructions that take no file of ours: the images begin alike."""

    def build(self, name: str, arguments: Mapping[str, str]) -> Path:
        """Build one image; return its directory, with `root` and `image.json` in it."""
        stages: dict[str, Path] = {}
        image, root = Image(), Path()
        for number, stage in enumerate(read_stages(DOCKERFILES / f"{name}.Dockerfile", arguments)):
            root = self._work / f"{name}-{stage.name or number}"
            image = self._run_stage(stage, root, stages)
            stages[stage.name or str(number)] = root
        built = BUILT / name
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir(parents=True)
        (built / "image.json").write_text(json.dumps(asdict(image), indent=2) + "\n")
        root.rename(built / "root")
        for stage_root in stages.values():
            shutil.rmtree(stage_root, ignore_errors=True)
        return built

    def _run_stage(self, stage: Stage, root: Path, stages: Mapping[str, Path]) -> Image:
        image = Image()
        key: str | None = stage.base
        self._begin(stage.base, root)
        for instruction in stage.instructions:
            text = f"{instruction.name} {instruction.text}"
            key = None if instruction.name == "COPY" or key is None else f"{key}\n{text}"
            if key is not None and key in self._layers:
                shutil.rmtree(root)
                _copy_tree(self._layers[key], root)
                continue
            print(f"line {instruction.line}: {text[:100]}", file=sys.stderr)
            self._carry_out(instruction, root=root, image=image, stages=stages)
            if key is not None and instruction.name == "RUN":
                self._layers[key] = self._work / f"layer-{len(self._layers)}"
                _copy_tree(root, self._layers[key])
        return image

    def _begin(self, base: str, root: Path) -> None:
        root.mkdir(parents=True)
        if base != "scratch":
            subprocess.run(["tar", "-C", str(root), "-xf", str(_base(base)), "--exclude=./dev/*"], check=True)

    def _carry_out(self, instruction: Instruction, *, root: Path, image: Image, stages: Mapping[str, Path]) -> None:
        match instruction.name:
            case "RUN":
                _run(root, image, instruction.text)
            case "COPY":
                self._copy(instruction, root=root, image=image, stages=stages)
            case "WORKDIR":
                image.directory = instruction.text
                _inside(root, instruction.text, image.directory).mkdir(parents=True, exist_ok=True)
            case "ENV":
                image.environment.update(instruction.pairs())
            case "LABEL":
                image.labels.update(instruction.pairs())
            case "USER":
                image.user = instruction.text
            case "STOPSIGNAL":
                image.stop_signal = instruction.text
            case "ENTRYPOINT":
                image.entrypoint = instruction.command()
            case "CMD":
                image.command = instruction.command()
            case "EXPOSE":
                image.ports = [int(port) for port in instruction.words()]
            case other:
                raise DockerfileError(f"line {instruction.line}: {other} is not carried out here")

    def _copy(self, instruction: Instruction, *, root: Path, image: Image, stages: Mapping[str, Path]) -> None:
        words = instruction.words()
        if words[0].startswith("--from="):
            source, target = words[1:]
            _copy_tree(_inside(stages[words[0].removeprefix("--from=")], source, "/"), _inside(root, target, "/"))
            return
        *sources, target = words
        to = _inside(root, target, image.directory)
        for source in sources:
            files = list(self._context.files(source))
            if not files:
                raise DockerfileError(f"line {instruction.line}: {source} is not there, or kept out of the build")
            for file, name in files:
                copy = to / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
                copy.chmod(0o755 if os.access(file, os.X_OK) else 0o644)


def size_of(root: Path) -> int:
    """Add up all files, in bytes; a file with several names counts once."""
    sizes = {}
    for path in root.rglob("*"):
        found = path.lstat()
        sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


def _inside(root: Path, path: str, directory: str) -> Path:
    return root / os.path.normpath(f"{directory}/{path}" if not path.startswith("/") else path).lstrip("/")


def _copy_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def _run(root: Path, image: Image, command: str) -> None:
    """Run a command in the root, with what an engine would give it, and what this machine needs to reach packages."""
    builder = {name: value for name, value in os.environ.items() if _OF_THE_BUILDER.fullmatch(name)}
    ca = next((os.environ[name] for name in _CERTIFICATES if os.environ.get(name)), "")
    if ca:
        builder |= {"BUILDER_CA": ca} | dict.fromkeys(_CERTIFICATES, "/run/builder/ca.crt")
    subprocess.run(
        ["unshare", "--mount", "--", "/bin/sh", "-c", _IN_ROOT, "sh", str(root), image.directory, command],
        env={"PATH": _PATH, "HOME": "/tmp", "DEBIAN_FRONTEND": "noninteractive", **builder, **image.environment},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=True,
    )


def _base(name: str) -> Path:
    """Make the base once; a new one after `make clean`."""
    match = _BASE_NAME.fullmatch(name)
    if match is None:
        raise DockerfileError(f"the base {name} cannot be made here, only debian:SUITE-slim")
    base = _BASES / f"{match[1]}.tar"
    if not base.exists():
        _BASES.mkdir(parents=True, exist_ok=True)
        fresh = base.with_suffix(".new.tar")
        sources = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("debian*")]
        subprocess.run(
            ["mmdebstrap", "--quiet", "--mode=auto", "--variant=minbase", match[1], str(fresh), *map(str, sources)],
            stdin=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        fresh.replace(base)
    return base


def _as_root(arguments: Sequence[str]) -> None:
    """Become root in a user namespace; returns if that is what the process is already."""
    if os.geteuid() != 0:
        # The base is made before, because a user namespace within another has no ids to give.
        for file in DOCKERFILES.glob("*.Dockerfile"):
            _base(read_stages(file, {})[0].base)
        command = ["unshare", "--map-root-user", "--map-auto", sys.executable, "-m", "tools.image_root", *arguments]
        os.execvp(command[0], command)


def main() -> int:
    """Build the images that are named, or all."""
    names = sorted(file.stem for file in DOCKERFILES.glob("*.Dockerfile"))
    parser = argparse.ArgumentParser(prog="python -m tools.image_root", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    for tool in ("mmdebstrap", "unshare"):
        if shutil.which(tool) is None:
            print(f"error: {tool} is not there (Debian: apt-get install mmdebstrap util-linux)", file=sys.stderr)
            return 1
    _as_root(sys.argv[1:])
    arguments = dict(argument.split("=", 1) for argument in options.build_arg)
    BUILT.mkdir(parents=True, exist_ok=True)
    # Its own, so that two builds at once do not take each other's away; on the file system where the roots go.
    work = Path(tempfile.mkdtemp(prefix=".work-", dir=BUILT))
    try:
        builder = Builder(work=work, context=BuildContext(directory=ROOT))
        for name in options.names or names:
            root = builder.build(name, arguments) / "root"
            print(f"{name:<16} {size_of(root) / 2**20:6.1f} MiB, of which packages {_packages(root) / 2**20:.1f} MiB")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _packages(root: Path) -> int:
    return sum(size_of(packages) for packages in root.glob("opt/*/lib/python3*/site-packages"))


if __name__ == "__main__":
    raise SystemExit(main())
