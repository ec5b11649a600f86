"""Experiments that answer questions about ballooning on a running kernel."""
