"""Hosts of virtio's siblings, attached to guests: links, wires, control."""
