"""Passwords: hashing, other systems' hashes, and lists of passwords that nobody should have."""
