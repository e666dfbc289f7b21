"""Cargo's lock, which is committed without the names of registries."""

import re

from tools.rust_lock import PINS, lock_of, pins_of

SOURCE = 'source = "some registry"\n'


def test_the_pins_hold_a_checksum_of_every_package_that_is_not_ours_and_no_address() -> None:
    pins = PINS.read_text()
    packages = {re.search(r'name = "([^"]+)"', block)[1]: block for block in pins.split("[[package]]\n")[1:]}  # type: ignore[index]
    ours = {name for name, block in packages.items() if "checksum" not in block}
    assert ours == {"trustlayer", "trustlayer-bench", "trustlayer-conformance-driver"}
    assert "source" not in pins
    assert "://" not in pins


def test_a_lock_is_made_again_of_its_pins() -> None:
    pins = PINS.read_text()
    lock = lock_of(pins, SOURCE)
    assert lock.count(SOURCE) == pins.count("checksum = ")
    assert pins_of(lock) == pins
