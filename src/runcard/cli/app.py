"""The command `runcard`: what all its commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from runcard import __version__, interrupts
from runcard.errors import EXIT_USER_ERROR, UserError, how_to_install

EXIT_FOUND = 1  # errors in the data, other data than the run's, or runs that are not done
TRUST = "a package whose objects the run's config may name, besides torch's and the like; may be said again"

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
ConfigDir = Annotated[Path | None, typer.Option(help="a folder of further config files, as `runcard train` takes it")]
Root = Annotated[Path | None, typer.Option(help="where the run's data lie now; none: where they lay")]
Trust = Annotated[list[str] | None, typer.Option(help=TRUST)]

EXIT_OF_TYPER = 1  # where it is interrupted

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
        print(f"runcard {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version it is.")] = (
        False
    ),
) -> None:
    """Experiments on medical images whose conclusions hold."""


def _run() -> None:
    """Run the command; typer makes another exit code of an interrupt."""
    try:
        app()
    except SystemExit as end:
        if end.code == EXIT_OF_TYPER and interrupts.is_interrupted():
            raise KeyboardInterrupt from None
        raise


def main() -> None:
    """Run the command; a user's mistake ends in a message and exit code 2."""
    try:
        with interrupts.watching():
            _run()
    except KeyboardInterrupt as stop:
        sys.exit(interrupts.exit_code(stop))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except ModuleNotFoundError as error:
        print(how_to_install(error), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except PermissionError as error:
        print(f"{error.filename}: permission denied.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
