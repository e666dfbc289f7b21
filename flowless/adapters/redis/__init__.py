"""Redis as the tier between the sidecars' memory and the database."""
