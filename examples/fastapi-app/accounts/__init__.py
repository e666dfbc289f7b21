"""An example: accounts, devices and an admin page on top of the Trust Layer, as pages that need no script."""
