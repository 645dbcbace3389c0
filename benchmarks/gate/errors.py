"""Why the gate could not say anything."""

from etacore.errors import EtacoreError


class GateError(EtacoreError):
    """A tool is missing, a tree does not build, or a workload fails."""
