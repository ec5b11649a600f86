"""Hyper-V's Dynamic Memory, both ends: pure."""
