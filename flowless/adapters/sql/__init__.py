"""Storage in SQL through SQLAlchemy Core: one set of queries and migrations for every database."""
