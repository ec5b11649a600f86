"""Many balloon devices in one process."""
