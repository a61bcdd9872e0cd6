"""Policies and critics: distributions over actions, networks, and the two together."""
