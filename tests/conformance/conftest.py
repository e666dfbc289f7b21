"""Every test here runs over every engine: see `tests.support.stores.ENGINES`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.stores import ENGINES, Stores


@pytest.fixture(params=sorted(ENGINES))
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    """All stores over a fresh, migrated database."""
    async with ENGINES[request.param](tmp_path) as opened:
        yield opened
