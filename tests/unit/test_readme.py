"""The README tells the truth where a program can check it."""

import json
import re
from dataclasses import MISSING, fields

from bridge_sidecar.config import PREFIX, SECRET_VARIABLE, SidecarConfig
from flowless.config import Settings
from tests.support.repository import ROOT

README = (ROOT / "README.md").read_text()


def _table(prefix: str) -> dict[str, str]:
    """Variable -> default, of the table whose variables begin with the prefix."""
    rows = re.findall(rf"(?m)^\| `({prefix}\w+)` \| (?:`([^`]*)`|[^|`]*?) ?\|", README)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def _spelled(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, frozenset | dict):
        return json.dumps(sorted(default) if isinstance(default, frozenset) else default)
    return "" if default in (None, MISSING) else str(default)


def test_the_table_of_flowless_settings_lists_every_setting_with_its_default() -> None:
    assert _table("FLOWLESS_") == {
        f"FLOWLESS_{name.upper()}": _spelled(field.default) for name, field in Settings.model_fields.items()
    }


def test_the_table_of_sidecar_settings_lists_every_setting_with_its_default() -> None:
    settings = {f"{PREFIX}{field.name.upper()}": _spelled(field.default) for field in fields(SidecarConfig)}
    settings[SECRET_VARIABLE] = settings.pop(f"{PREFIX}BRIDGE_SECRET")
    del settings[f"{PREFIX}ROUTES"]  # of the file only
    assert _table(PREFIX) == settings


def test_every_link_to_a_file_leads_to_one() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_every_make_target_that_documents_name_exists() -> None:
    makefiles = (ROOT / "Makefile", *(ROOT / "clients").glob("*/client.mk"))
    targets = {name for file in makefiles for name in re.findall(r"(?m)^\.PHONY: (\S+)$", file.read_text())}
    named = {
        target
        for document in ROOT.glob("*.md")
        for target in re.findall(r"(?m)(?:`|^\$ )make ([a-z-]+)", document.read_text())
    }
    assert named
    assert named <= targets
