"""python -m octuor: the command line."""

from octuor.cli import main

main()
