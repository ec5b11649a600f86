"""Balloon devices for many guests: a process for each, and one that watches them."""
