"""``python -m etacore``."""

from etacore.cli import main

main(prog_name="etacore")
