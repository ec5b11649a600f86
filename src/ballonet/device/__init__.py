"""The balloon device as a state machine: chains and configuration accesses in, effects out."""
