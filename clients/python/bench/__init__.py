"""What a hit costs through the Python client, beside the usual alternatives of Python."""
