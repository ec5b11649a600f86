"""The autopilot in the agent: rounds in, decisions carried out, explained and written down."""
