"""Which models serve a fleet."""

from __future__ import annotations

from dataclasses import dataclass, field

from etacore.errors import ModelNotFoundError
from etacore.models.registry import Registry
from etacore.models.servable import Servable
from etacore.models.short_ids import resolve_key


@dataclass(frozen=True, slots=True)
class Models:
    """The models that serve a fleet: one for all routes, and better ones for some.

    Attributes
    ----------
    default : Servable or None
        For routes that have none of their own.
    by_route : dict
        Route id (UTF-8) to the model of that route.
    """

    default: Servable | None
    by_route: dict[bytes, Servable] = field(default_factory=dict)

    def with_promoted(self, model: Servable) -> Models:
        """These models with one more in its place: a route's model serves its route, a global one all others."""
        if model.route_id is None:
            return Models(model, self.by_route)
        return Models(self.default, self.by_route | {model.route_id.encode(): model})

    def all(self) -> list[Servable]:
        """Each model once, the default first."""
        return ([self.default] if self.default else []) + list(self.by_route.values())


def choose_models(registry: Registry, model_key: str | None, model_type: str = "xgboost") -> Models:
    """Models for a fleet: the named one (by key or short id) alone, else the best global one and each route's own best.

    A model of one route never serves another route.

    Raises
    ------
    ModelNotFoundError
        If the key is unknown or means more than one model, or the registry holds no model of the type.
    ModelLoadError, SchemaError
        If a chosen model cannot be served.
    """
    if model_key is not None:
        return Models(None).with_promoted(registry.load(resolve_key(registry, model_key, advice="set model_key")))
    routes = sorted(
        {entry.route_id for entry in registry.entries() if entry.route_id and entry.model_type == model_type}
    )
    own = {route: registry.choose(model_type, route, prefer_route_model=True) for route in routes}
    default = registry.choose(model_type, None)
    by_route: dict[bytes, Servable] = {
        route.encode(): registry.load(key) for route, key in own.items() if key is not None and key != default
    }
    if default is None and not by_route:
        raise ModelNotFoundError(
            f"No trained models found for model_type {model_type} in {registry.path}",
            hint="set model_registry_dir (environment MODEL_REGISTRY_DIR), or add a model with `etacore compile`",
        )
    return Models(registry.load(default) if default is not None else None, by_route)
