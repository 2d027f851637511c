"""The command runcard: what is done with runs that have ended. Training is train.py's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from runcard import __version__
from runcard.errors import EXIT_USER_ERROR, UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


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
    """Runcard: experiments on medical images whose conclusions hold. `python train.py --help` trains."""


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="a run folder, outputs/<name>/<stamp>", show_default=False)],
    images: Annotated[
        list[Path] | None, typer.Argument(help="images, or folders of them; none: the run's own", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="which of the run's own images: train, val or test")] = "val",
    method: Annotated[str, typer.Option(help="a class of pytorch_grad_cam, or any with a dotted name")] = "GradCAM",
    layer: Annotated[str | None, typer.Option(help="a layer's name; none: the last convolution")] = None,
    root: Annotated[Path | None, typer.Option(help="where the run's data lie now; none: where they lay")] = None,
) -> None:
    """Draw where a classifier looked, class by class, and probe whether it reads markers or borders."""
    from runcard.explain import explain_run  # torch takes seconds: a mistyped option does not wait for it

    explain_run(run, images or [], split=split, method=method, layer=layer, root=root)


def main() -> None:
    """Runs the command; a person's mistake is answered in words, with exit code 2."""
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except PermissionError as error:
        print(f"{error.filename}: may not be read or written by you.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
