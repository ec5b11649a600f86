"""Checks of a device, which is driven as a driver would, and as none would."""
