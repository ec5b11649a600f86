"""Virtual machines by their monitors: ours, and any QEMU's."""
