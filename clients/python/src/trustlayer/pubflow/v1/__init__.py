"""Generated from proto/trustlayer/pubflow/v1; do not edit."""
