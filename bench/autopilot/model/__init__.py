"""A model of a host full of guests, to try laws on: seeded, hours in seconds.

It chooses between laws and between numbers, and is no evidence of how real guests fare.
"""
