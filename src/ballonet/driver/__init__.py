"""The guest's driver of a balloon, for any device and any way to it."""
