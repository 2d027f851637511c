"""Run the command line: python -m runcard.cli."""

from runcard.cli import main

main()
