"""Flowless: owns identities, sessions and single-use trust tokens. The only owner of truth."""
