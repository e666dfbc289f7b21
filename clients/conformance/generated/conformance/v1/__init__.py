"""Generated from clients/conformance/proto/conformance/v1; do not edit."""
