"""Everything that talks outward: SQL, password hashing, address parsing."""
