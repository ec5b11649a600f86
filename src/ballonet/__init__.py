"""Memory ballooning for virtual machines: device, and the guests to prove it on."""

__version__ = "0.1.0"
