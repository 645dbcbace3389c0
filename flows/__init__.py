"""The Prefect side: flows, blocks, deployments. Nothing here is needed to predict.

Settings of Prefect that these flows rely on are set here, before Prefect is
imported and only where the environment does not say otherwise.
"""

from __future__ import annotations

import os
from typing import Final

PREFECT_DEFAULTS: Final = {
    # A first start without a server of its own makes a database: 23 to 29 s on a small machine, the limit is 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    # What the automation for vanished runs listens to; Prefect's own default is 180 s.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Machines without internet.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}

for _name, _value in PREFECT_DEFAULTS.items():
    os.environ.setdefault(_name, _value)
