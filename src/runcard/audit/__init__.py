"""Checks of data before training: what is wrong, where, and how to fix it."""
