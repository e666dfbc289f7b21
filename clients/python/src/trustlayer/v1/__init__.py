"""Generated from proto/trustlayer/v1; do not edit."""
