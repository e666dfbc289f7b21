"""Read a Dockerfile as stages of instructions: what `tools/image_root.py` carries out.

Knows the instructions that this repository's Dockerfiles use, in the forms that they use. Whatever else stands there
is an error and not passed over, so that what is built here is what an engine would build.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_IN_STAGES: Final = frozenset(
    {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "RUN", "STOPSIGNAL", "USER", "WORKDIR"}
)
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")


class DockerfileError(Exception):
    """The file holds something that is not known here. The text names the line."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; its text is as written, with continued lines joined."""

    line: int
    name: str
    text: str

    def words(self) -> list[str]:
        """Split as a shell would, for instructions that are lists of words or of NAME=VALUE."""
        return shlex.split(self.text)

    def pairs(self) -> dict[str, str]:
        """Read NAME=VALUE …; raises `DockerfileError` for the old form without the equals sign."""
        words = [word.partition("=") for word in self.words()]
        if not all(equals for _, equals, _ in words):
            raise DockerfileError(f"line {self.line}: {self.name} wants NAME=VALUE")
        return {name: value for name, _, value in words}

    def command(self) -> list[str]:
        """Read the exec form; raises `DockerfileError` for the shell form, whose shell would not be there."""
        try:
            words = json.loads(self.text)
        except json.JSONDecodeError as error:
            raise DockerfileError(f"line {self.line}: {self.name} wants the exec form") from error
        return [str(word) for word in words]


@dataclass(frozen=True, slots=True)
class Stage:
    """What comes after one FROM."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)


def read_stages(file: Path, arguments: Mapping[str, str]) -> list[Stage]:
    """Read all stages; `arguments` are build arguments, which win over the file's own values.

    Raises `DockerfileError` for whatever is not known, and for an argument that the file does not have.
    """
    stages: list[Stage] = []
    known: dict[str, str] = {}
    scope: dict[str, str] = {}
    for instruction in _instructions(file.read_text()):
        text = instruction.text if instruction.name == "RUN" else _substitute(instruction, scope)
        done = Instruction(instruction.line, instruction.name, text)
        if done.name == "FROM":
            stages.append(_stage(done))
            scope = {}
        elif done.name == "ARG":
            name, _, default = done.text.partition("=")
            scope[name] = known[name] = arguments.get(name, default)
        elif not stages or done.name not in _IN_STAGES:
            raise DockerfileError(f"line {done.line}: {done.name} is not known here")
        else:
            stages[-1].instructions.append(done)
    if unknown := set(arguments) - set(known):
        raise DockerfileError(f"no such build arguments: {', '.join(sorted(unknown))}")
    return stages


def _stage(instruction: Instruction) -> Stage:
    match instruction.words():
        case [base]:
            return Stage(base=base, name="")
        case [base, "AS", name]:
            return Stage(base=base, name=name)
    raise DockerfileError(f"line {instruction.line}: FROM wants BASE or BASE AS NAME")


def _substitute(instruction: Instruction, scope: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in scope:
            raise DockerfileError(f"line {instruction.line}: no argument {match[1]} here")
        return scope[match[1]]

    return _VARIABLE.sub(value, instruction.text)


def _instructions(text: str) -> Iterator[Instruction]:
    """Join continued lines, and leave comments out."""
    begun = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("#") or (not stripped and not parts):
            continue
        begun = begun if parts else number
        parts.append(stripped.removesuffix("\\").strip())
        if not stripped.endswith("\\"):
            name, _, rest = " ".join(parts).partition(" ")
            yield Instruction(begun, name.upper(), rest.strip())
            parts = []
    if parts:
        raise DockerfileError(f"line {begun}: the instruction does not end")
