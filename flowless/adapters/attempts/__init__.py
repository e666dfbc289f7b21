"""Counters of attempts, by the `limits` library: in memory, in Redis, and both with one standing in for the other."""
