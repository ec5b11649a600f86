"""Conformance: whether a device or a driver keeps to the specification and out of traps."""
