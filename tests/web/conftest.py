"""These tests need Debian's `chromium` and `chromium-driver`: they run with `make web-check` only."""

import os

collect_ignore_glob = [] if os.environ.get("TRUSTLAYER_WEB") else ["test_*.py"]
