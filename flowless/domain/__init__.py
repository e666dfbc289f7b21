"""Pure rules and records of Flowless: no I/O, no clock, the standard library only."""
