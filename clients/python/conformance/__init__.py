"""Drivers of the conformance cases for the Python client, one with and one without asyncio."""
