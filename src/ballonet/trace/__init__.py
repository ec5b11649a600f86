"""A record of the conversation between host, device and driver."""
