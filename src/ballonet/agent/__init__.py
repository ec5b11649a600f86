"""The agent of a host: one process that watches all its machines, and tells what it sees."""
