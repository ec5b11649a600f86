"""The autopilot beside the laws of others, on a model of a fleet."""
