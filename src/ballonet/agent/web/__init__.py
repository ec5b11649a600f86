"""The page: what the agent sees and decides, for people who look at it in a browser."""
