"""The monitor of a device: its server's thread, and what it knows of the device."""
