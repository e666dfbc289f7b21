"""Measurements that a person or CI can repeat: `make bench`, `make bench-server-model`.

Ratios between things measured in the same run are what counts; absolute times belong to one machine on one day.
"""
