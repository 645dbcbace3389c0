from typing import Final, final

from etacore._kernels.batch import Batch
from etacore._kernels.routes import Line, PatternTable

SPEED_TAU_S: Final[float]

@final
class SelectOptions:
    def __init__(
        self,
        *,
        max_off_route_m: float = 2000.0,
        max_speed_mps: float = 40.0,
        slack_m: float = 300.0,
        tolerance_m: float = 50.0,
        fit_m: float = 150.0,
        restart_fit_m: float = 100.0,
        restart_strikes: int = 3,
        trip_strikes: int = 5,
        run_strikes: int = 3,
        near_equal_m: float = 30.0,
        heading_penalty_m: float = 60.0,
        reset_after_s: float = 3600.0,
        silence_s: float = 600.0,
        hint_slack_m: float = 50.0,
        at_stop_m: float = 75.0,
        reached_m: float = 50.0,
    ) -> None: ...
    @property
    def max_off_route_m(self) -> float: ...
    @property
    def max_speed_mps(self) -> float: ...
    @property
    def slack_m(self) -> float: ...
    @property
    def tolerance_m(self) -> float: ...
    @property
    def fit_m(self) -> float: ...
    @property
    def restart_fit_m(self) -> float: ...
    @property
    def restart_strikes(self) -> int: ...
    @property
    def trip_strikes(self) -> int: ...
    @property
    def run_strikes(self) -> int: ...
    @property
    def near_equal_m(self) -> float: ...
    @property
    def heading_penalty_m(self) -> float: ...
    @property
    def reset_after_s(self) -> float: ...
    @property
    def silence_s(self) -> float: ...
    @property
    def hint_slack_m(self) -> float: ...
    @property
    def at_stop_m(self) -> float: ...
    @property
    def reached_m(self) -> float: ...

def select_stops(batch: Batch, table: PatternTable, options: SelectOptions) -> None: ...
def along(
    line: Line, lat: float, lon: float, stop_lat: float, stop_lon: float, near_equal_m: float = 30.0
) -> tuple[float, float, float, float]: ...
