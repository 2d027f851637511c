"""Runcard: a config-driven experiment framework for medical images."""

__version__ = "0.1.0"
