"""Guests to prove a balloon on: real kernels, started and talked to."""
