"""Plain requests to Prefect's API, for what may fail without harm: limited in time, never repeated, no events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client

if TYPE_CHECKING:
    from prefect.client.orchestration.routes import ServerRoutes

CALL_TIMEOUT_S: Final = 5.0


class PrefectApi:
    """A connection that is made when needed, and the artifacts of one run.

    The client's own methods for artifacts emit an event each, through a queue without a timeout. Use it where
    ``PREFECT_CLIENT_MAX_RETRIES`` is 0.

    Parameters
    ----------
    flow_run_id : UUID or None
        The run that artifacts belong to.
    """

    def __init__(self, flow_run_id: UUID | None) -> None:
        self._run: Final = flow_run_id
        self._client: SyncPrefectClient | None = None
        self._artifacts: Final[dict[str, str]] = {}

    def request(self, method: Any, route: ServerRoutes | str, **arguments: Any) -> Any:
        """The answer as JSON; raises what the client raises."""
        if self._client is None:
            self._client = get_client(sync_client=True, httpx_settings={"timeout": CALL_TIMEOUT_S}).__enter__()
        response = self._client.request(method, route, **arguments)  # type: ignore[arg-type]
        response.raise_for_status()
        return response.json() if response.content else None

    def close(self) -> None:
        """Forget the connection; the next request makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.__exit__(None, None, None)

    def publish(self, kind: str, data: str | float, description: str, key: str) -> None:
        """One artifact a run and key, made once and then brought up to date: rows do not pile up in the server."""
        body = {"data": data, "description": description}
        if (known := self._artifacts.get(key)) is not None:
            self.request("PATCH", "/artifacts/{id}", path_params={"id": known}, json=body)
            return
        body |= {"key": key, "type": kind, "flow_run_id": str(self._run)}
        self._artifacts[key] = self.request("POST", "/artifacts/", json=body)["id"]
