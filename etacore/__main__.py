"""``python -m etacore``."""

from etacore.cli.app import main

main(prog_name="etacore")
