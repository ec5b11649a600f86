"""Facts of the virtio specification: features, configuration space, queues, statistics, rings."""
