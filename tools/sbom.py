"""List what is in the built images: a CycloneDX document per image, made of what lies in its root.

`python -m tools.sbom [NAME…]` reads `build/images/NAME/root` (see `tools/image_root.py`): Python packages by their
own metadata, with what they need, and Debian's by `/var/lib/dpkg/status`. It writes `build/images/NAME/sbom.cdx.json`
and prints how much is in it. What is listed is what was installed, not what a lock would install.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from tools.image_root import BUILT

_REQUIRED: Final = re.compile(r"^([\w.-]+)")
_EXTRA: Final = re.compile(r"\bextra\s*==")


def describe(image: Path) -> Bom:
    """Make the document of one image."""
    bom = Bom()
    bom.metadata.component = Component(name=image.name, type=ComponentType.CONTAINER, bom_ref=image.name)
    python = dict(_python(image / "root"))
    debian = list(_debian(image / "root"))
    components = {name: component for name, (component, _) in python.items()}
    for component in (*components.values(), *debian):
        bom.components.add(component)
    for component, needs in python.values():
        bom.register_dependency(component, [components[name] for name in needs if name in components])
    bom.register_dependency(bom.metadata.component, bom.components)
    return bom


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _python(root: Path) -> Iterator[tuple[str, tuple[Component, list[str]]]]:
    paths = [str(path) for path in root.glob("opt/*/lib/python3*/site-packages")]
    for found in distributions(path=paths):
        name = _canonical(found.metadata["Name"])
        component = Component(
            name=name,
            version=found.version,
            type=ComponentType.LIBRARY,
            bom_ref=f"python:{name}",
            purl=PackageURL("pypi", None, name, found.version),
            licenses=_licenses(found),
        )
        yield name, (component, [_canonical(need) for need in _needs(found)])


def _needs(found: Distribution) -> Iterator[str]:
    for line in found.requires or ():
        match = _REQUIRED.match(line)
        if match and not _EXTRA.search(line):
            yield match[1]


def _licenses(found: Distribution) -> list[License]:
    metadata = found.metadata
    texts = [metadata[field].strip() for field in ("License-Expression", "License") if field in metadata]
    # Some packages put the whole text there.
    return [LicenseFactory().make_from_string(text) for text in texts[:1] if 0 < len(text) < 100]


def _debian(root: Path) -> Iterator[Component]:
    for paragraph in (root / "var" / "lib" / "dpkg" / "status").read_text().split("\n\n"):
        fields: Message[str, str] = Parser().parsestr(paragraph)
        if name := fields["Package"]:
            yield Component(
                name=name,
                version=fields["Version"],
                type=ComponentType.LIBRARY,
                bom_ref=f"debian:{name}",
                purl=PackageURL("deb", "debian", name, fields["Version"], {"arch": fields["Architecture"]}),
            )


def main() -> int:
    """Write the documents of the images that are named, or of all that are built."""
    parser = argparse.ArgumentParser(prog="python -m tools.sbom", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or sorted(file.parent.name for file in BUILT.glob("*/image.json"))
    if not names:
        print("error: no image is built (make image-root)", file=sys.stderr)
        return 1
    for name in names:
        file = BUILT / name / "sbom.cdx.json"
        bom = describe(BUILT / name)
        file.write_text(JsonV1Dot6(bom).output_as_string(indent=2) + "\n")
        print(f"{name:<16} {len(bom.components):4d} components in {file.relative_to(BUILT.parent.parent)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
