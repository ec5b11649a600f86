"""QEMU's test protocol, and virtio devices of QEMU driven through it."""
