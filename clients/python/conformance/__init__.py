"""For the conformance cases: drivers of the Python client, with and without asyncio, and apps with its middleware."""
