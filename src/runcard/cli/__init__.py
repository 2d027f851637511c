"""The command line. A module for each group of commands, in the order of `runcard --help`."""

# isort: off
from runcard.cli import training
from runcard.cli import trained
from runcard.cli import conclusions
from runcard.cli import published
from runcard.cli import folders
# isort: on

from runcard.cli.app import app, main

__all__ = ["app", "conclusions", "folders", "main", "published", "trained", "training"]
