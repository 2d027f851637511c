"""Checks on data before anything is trained: what is wrong, where, and how to fix it."""
