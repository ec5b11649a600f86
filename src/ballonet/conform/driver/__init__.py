"""Checks of a driver, which meets a device that can be as slow and as odd as a check wants."""
