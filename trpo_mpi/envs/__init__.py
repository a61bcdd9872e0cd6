"""Environments: made from an id, checked, and stepped as this rank's columns."""
