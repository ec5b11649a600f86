"""Rings, device side: chains in, used entries out."""
