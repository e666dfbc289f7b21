"""Generated stubs of the `trustlayer.v1` standard live in `trustlayer.v1`."""
