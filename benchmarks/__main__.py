"""Runs the command line as `python -m benchmarks`."""

from benchmarks.cli import main

main()
