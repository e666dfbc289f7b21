"""Apps with the middleware of the Python client, for the conformance cases and for its own tests."""
