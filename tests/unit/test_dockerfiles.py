"""The Dockerfiles are read whole or refused, and a build sees nothing that it does not copy."""

from pathlib import Path

import pytest

from tests.support.repository import ROOT, files
from tools.build_context import BuildContext
from tools.dockerfile import DockerfileError, Instruction, read_stages

DOCKERFILES = sorted((ROOT / "deploy" / "images").glob("*.Dockerfile"))
each = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)


def _instructions(dockerfile: Path, name: str) -> list[Instruction]:
    return [found for stage in read_stages(dockerfile, {}) for found in stage.instructions if found.name == name]


@each
def test_the_base_is_an_argument_and_no_part_of_the_image(dockerfile: Path) -> None:
    build, final = read_stages(dockerfile, {"BASE_IMAGE": "debian@sha256:0"})
    assert (build.base, build.name, final.base) == ("debian@sha256:0", "build", "scratch")


@each
def test_an_image_ends_as_a_user_with_a_number_and_starts_without_a_shell(dockerfile: Path) -> None:
    final = read_stages(dockerfile, {})[-1].instructions
    (user,) = (found.text for found in final if found.name == "USER")
    assert all(part.isdecimal() and int(part) > 10_000 for part in user.split(":"))
    (entrypoint,) = (found.command() for found in final if found.name == "ENTRYPOINT")
    assert entrypoint[0].startswith("/opt/")


@each
def test_everything_installed_comes_by_hash_and_ready_built(dockerfile: Path) -> None:
    commands = " ".join(found.text for found in _instructions(dockerfile, "RUN")).split("&&")
    installs = [command for command in commands if " pip " in command and " install " in command]
    assert len(installs) == 3
    assert all(
        ("--require-hashes" in command and "--only-binary :all:" in command) or "--no-index" in command
        for command in installs
    )


@each
def test_every_copied_source_is_sent_to_the_build(dockerfile: Path) -> None:
    context = BuildContext(directory=ROOT)
    copies = [found.words() for found in _instructions(dockerfile, "COPY") if "--from" not in found.text]
    assert copies
    for *sources, _ in copies:
        for source in sources:
            assert list(context.files(source)), source


def test_nothing_else_is_sent_to_the_build() -> None:
    context = BuildContext(directory=ROOT)
    copied = {
        (ROOT / source).resolve()
        for dockerfile in DOCKERFILES
        for found in _instructions(dockerfile, "COPY")
        if "--from" not in found.text
        for source in found.words()[:-1]
    } | set((ROOT / "requirements").glob("*.txt"))
    sent = [file for file in files() if context.is_sent(file.relative_to(ROOT).as_posix())]
    assert [file for file in sent if not copied & {file, *file.parents}] == []


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("flowless/cli/serve.py", True),
        ("requirements/server.txt", True),
        ("flowless/__pycache__/config.cpython-311.pyc", False),
        ("flowless/.env", False),
        (".git/config", False),
        ("tests/conftest.py", False),
        ("flowless.db", False),
        ("trust_core/tls.key.pyc", False),
        ("requirements/notes.md", False),
    ],
)
def test_dockerignore_denies_and_allows_as_an_engine_would(path: str, sent: bool) -> None:
    assert BuildContext(directory=ROOT).is_sent(path) is sent


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\nADD x /y\n", "line 2: ADD is not known"),
        ("RUN true\n", "line 1: RUN is not known"),
        ("FROM ${NO}\n", "line 1: no argument NO"),
        ("FROM --platform=x a AS b\n", "line 1: FROM wants"),
        ("FROM a\nRUN true \\\n", "line 2: the instruction does not end"),
        ("FROM a\nHEALTHCHECK CMD x\n", "line 2: HEALTHCHECK is not known"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(DockerfileError, match=message):
        read_stages(tmp_path / "Dockerfile", {})


def test_an_argument_that_the_file_does_not_have_is_refused() -> None:
    with pytest.raises(DockerfileError, match="BASE_IMGE"):
        read_stages(DOCKERFILES[0], {"BASE_IMGE": "debian"})


def test_a_shell_form_entrypoint_is_refused() -> None:
    with pytest.raises(DockerfileError, match="exec form"):
        Instruction(1, "ENTRYPOINT", "flowless serve").command()


def test_a_comment_between_continued_lines_is_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM a\nRUN one \\\n# why\n  && two\nENV A=1 \\\n    B='x y'\n")
    (stage,) = read_stages(tmp_path / "Dockerfile", {})
    assert [found.text for found in stage.instructions] == ["one && two", "A=1 B='x y'"]
    assert stage.instructions[1].pairs() == {"A": "1", "B": "x y"}
