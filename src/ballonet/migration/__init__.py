"""Live migration: memory copied while its guest runs, and the guest after it."""
