"""The command that trains one config, or with -m a sweep of them: `runcard train`, and train.py of a clone."""

from __future__ import annotations

import sys

from runcard.config.help import help_text
from runcard.errors import EXIT_USER_ERROR, UserError


def main() -> None:
    """Print the help, or run the configs that the command line composes; see train.main."""
    if not {"-h", "--help"} & set(sys.argv):
        from runcard.experiment.train import main as train  # imports Hydra, which the help does not need

        return train()
    try:
        print(help_text(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
