"""Environments: made from an id and checked, and stepped as this rank's columns."""
