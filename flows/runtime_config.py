"""The block `EtaRuntimeSettings`, and how block, parameters and environment become the loop's settings.

Register it with ``python -m prefect block register -m flows.runtime_config``
or ``-f flows/runtime_config.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

import flows  # noqa: F401  (sets defaults of Prefect, so it comes first)

# isort: split
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_HOME
from pydantic import Field, SecretStr, ValidationError, model_validator

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError
from etacore.files import write_whole

BLOCK_SLUG: Final = "eta-runtime-settings"
BLOCKS_PER_CALL: Final = 200
DEFAULT_PREFIX: Final = "eta-runtime"
DEFAULT_PROFILING_DIR: Final = Path("profiling")
NAME_RULE: Final = "lower-case letters, digits and dashes"

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ENVIRONMENT: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "redis_host": ("REDIS_HOST", str),
    "redis_port": ("REDIS_PORT", int),
    "redis_db": ("REDIS_DB", int),
    "redis_username": ("REDIS_USERNAME", str),
    "redis_password": ("REDIS_PASSWORD", str),
    "redis_url": ("REDIS_URL", str),
}

Say = Callable[[str], None]
"""Where a line for the operator goes."""


class EtaRuntimeSettings(Block):
    """Where Redis is, which model to serve, how often to poll, whom to alert: defaults of `prefect-eta-runtime`.

    It holds no password: ``redis_password_secret`` names a Secret block.
    """

    _block_type_name = "EtaRuntimeSettings"
    _block_type_slug = BLOCK_SLUG
    _description = "Settings of the flow prefect-eta-runtime. Parameters of a run override them."

    redis_host: str = Field(default="localhost", description="Host of the vehicles' Redis.")
    redis_port: int = Field(default=6379, description="1 to 65535.")
    redis_db: int = Field(default=0, description="Database number.")
    redis_password_secret: str | None = Field(default=None, description="Name of the Secret block with the password.")
    poll_interval_seconds: float = Field(default=1.0, description="Seconds between two polls.")
    snapshot_source: str = Field(
        default="auto",
        description="events: as Redis announces changes; poll: at each interval; auto: what is possible.",
    )
    model_key: str | None = Field(
        default=None, description="Model to serve; empty: what eta:active_model announces, else the registry's best."
    )
    predictions_ttl_seconds: int = Field(default=300, description="Seconds that a prediction lives in Redis.")
    max_vehicle_batch: int | None = Field(default=None, description="Vehicles per poll, the longest-waiting first.")
    max_stops_per_vehicle: int = Field(default=5, description="Next stops to predict.")
    guessed_patterns: bool = Field(
        default=True, description="Whether to predict vehicles whose trip is not among the seeded ones."
    )
    zero_prediction_alert_threshold: int = Field(
        default=0, description="Polls in a row without a prediction before an alert; 0 = never."
    )
    notification_blocks: list[str] = Field(
        default_factory=list, description="Blocks that get alerts: type-slug/name, or the name alone."
    )
    profiling_artifact_key_prefix: str = Field(default=DEFAULT_PREFIX, description=f"{NAME_RULE.capitalize()}.")
    model_registry_dir: str | None = Field(
        default=None, description="Folder of the models; empty: MODEL_REGISTRY_DIR, else models/trained."
    )

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        # The ranges are those of the loop itself; only its errors know them.
        merge({}, self.settings(), {})
        return self

    def settings(self) -> dict[str, Any]:
        """The fields by name."""
        return {name: getattr(self, name) for name in SETTINGS}


SETTINGS: Final = tuple(EtaRuntimeSettings.__annotations__)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What one run of the flow goes by.

    Attributes
    ----------
    config : RuntimeConfig
        Of the loop.
    watched_block : str or None
        Block whose ``model_key`` is served and may change while running; None if a parameter fixes the model.
    """

    config: RuntimeConfig
    notification_blocks: tuple[str, ...] = ()
    zero_prediction_alert_threshold: int = 0
    artifact_prefix: str = DEFAULT_PREFIX
    watched_block: str | None = None


def check_name(what: str, text: str) -> str:
    """Return `text` if Prefect takes it as a name.

    Raises
    ------
    ConfigError
        If not.
    """
    if not _NAME.fullmatch(text):
        raise ConfigError(f"{what} is {text!r}", hint=f"use {NAME_RULE}, for example eta-runtime-dev")
    return text


def block_name(text: str, say: Say) -> str:
    """Name of a settings block or a Secret; the spelling ``eta-runtime/dev`` of older versions is still understood.

    Raises
    ------
    ConfigError
        If it cannot be a name.
    """
    bare = text.removeprefix(f"{BLOCK_SLUG}/").removeprefix("secret/")
    name = bare.replace("/", "-")
    if name != bare:
        say(f"block names have no slash any more: taking {name} for {text}")
    return check_name("a block's name", name)


def merge(
    given: Mapping[str, Any], block: Mapping[str, Any], environment: Mapping[str, str], password: str | None = None
) -> RunSettings:
    """One set of settings out of parameters, block and environment, in this order of precedence.

    Parameters
    ----------
    given : mapping
        Parameters of the flow; None means not given.
    block : mapping
        Fields of the block, empty without one.
    environment : mapping
        ``REDIS_HOST`` and its kin; ``REDIS_URL`` counts only where neither parameter nor block names a host.
    password : str, optional
        Value of the Secret that the block names.

    Raises
    ------
    ConfigError
        Names the field, the value and the range.
    """
    values: dict[str, Any] = from_environment(environment)
    values |= {name: value for name, value in block.items() if value is not None}
    if password is not None:
        values["redis_password"] = password
    values |= {name: value for name, value in given.items() if value is not None}
    if any(settings.get("redis_host") is not None for settings in (given, block)):
        values.pop("redis_url", None)
    values.pop("redis_password_secret", None)
    values.pop("runtime_settings_block", None)
    receivers = values.pop("notification_blocks", None) or ()
    threshold = values.pop("zero_prediction_alert_threshold", 0)
    prefix = check_name(
        "profiling_artifact_key_prefix", values.pop("profiling_artifact_key_prefix", None) or DEFAULT_PREFIX
    )
    if not isinstance(threshold, int) or threshold < 0:
        raise ConfigError(f"zero_prediction_alert_threshold is {threshold}, but must be at least 0 (0 = no alert)")
    for name in ("model_registry_dir", "profiling_dir"):
        if values.get(name):
            values[name] = Path(values[name])
    if isinstance(values.get("redis_password"), SecretStr):
        values["redis_password"] = values["redis_password"].get_secret_value()
    values = {name: value for name, value in values.items() if value != "" or name == "redis_password"}
    return RunSettings(
        config=RuntimeConfig.from_mapping({"profiling_dir": DEFAULT_PROFILING_DIR} | values),
        notification_blocks=tuple(dict.fromkeys(receivers)),
        zero_prediction_alert_threshold=threshold,
        artifact_prefix=prefix,
    )


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """What ``REDIS_HOST`` and its kin say, by the names of the settings.

    Raises
    ------
    ConfigError
        Names the variable and its value.
    """
    values: dict[str, Any] = {}
    for name, (variable, convert) in _ENVIRONMENT.items():
        text = environment.get(variable)
        if not text:
            continue
        try:
            values[name] = convert(text)
        except ValueError:
            raise ConfigError(f"environment variable {variable} is {text!r}, but must be a number") from None
    return values


def environment_settings() -> dict[str, Any]:
    """What the environment says that a block can hold."""
    return {name: value for name, value in from_environment(os.environ).items() if name in SETTINGS}


def resolve(given: Mapping[str, Any], *, api: bool, say: Say) -> RunSettings:
    """Settings of a run, with block and Secret read from Prefect.

    Parameters
    ----------
    given : mapping
        Parameters of the flow; None means not given.
    api : bool
        Whether Prefect can be asked. If not, the last copy of the block on this machine counts.
    say : callable
        Takes a line for the operator.

    Raises
    ------
    ConfigError
        If a block or Secret is missing or of another type, or a value cannot work.
    """
    name = given.get("runtime_settings_block")
    if not name:
        return merge(given, {}, os.environ)
    name = block_name(name, say)
    block = _load_block(name) if api else _last_copy(name, say)
    password = None
    if api:
        _keep_copy(name, block)
        secret = block.get("redis_password_secret")
        if secret and given.get("redis_password") is None:
            password = load_secret(block_name(secret, say))
    settings = merge(given, block, os.environ, password)
    watched = name if given.get("model_key") is None else None
    return RunSettings(
        settings.config,
        settings.notification_blocks,
        settings.zero_prediction_alert_threshold,
        settings.artifact_prefix,
        watched,
    )


def _load_block(name: str) -> dict[str, Any]:
    try:
        return cast(EtaRuntimeSettings, EtaRuntimeSettings.load(name)).settings()
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or BLOCK_SLUG
        raise ConfigError(f"block {name}: {where}: {problem['msg']}") from None
    except ValueError as error:
        if "Unable to find block document" not in str(error):
            raise
    raise missing_block(name, BLOCK_SLUG, f"python flows/runtime_deployment.py save-block --block-name {name}")


def missing_block(name: str, slug: str, hint: str) -> ConfigError:
    """The error for a block that is not there: says so if one of another type has the name."""
    others = {other for other, its_name in stored_blocks() if its_name == name} - {slug}
    if others:
        return ConfigError(f"block {name} is a {' and a '.join(sorted(others))}, not a {slug}", hint=hint)
    return ConfigError(f"there is no block {slug}/{name}", hint=hint)


def stored_blocks() -> list[tuple[str, str]]:
    """Type slug and name of every block that Prefect knows."""
    found: list[tuple[str, str]] = []
    with get_client(sync_client=True) as client:
        for offset in itertools.count(0, BLOCKS_PER_CALL):
            documents = client.read_block_documents(limit=BLOCKS_PER_CALL, offset=offset, include_secrets=False)
            found += [
                (document.block_type.slug, document.name)
                for document in documents
                if document.block_type is not None and document.name is not None
            ]
            if len(documents) < BLOCKS_PER_CALL:
                break
    return found


def load_secret(name: str) -> str:
    """Text of a Secret block.

    Raises
    ------
    ConfigError
        If it is missing, or holds no text.
    """
    try:
        value = cast("Secret[Any]", Secret.load(name)).get()
    except ValueError as error:
        if "Unable to find block document" not in str(error):
            raise
        hint = f"""python -c "from prefect.blocks.system import Secret; Secret(value='...').save('{name}')" """.strip()
        raise missing_block(name, "secret", hint) from None
    if not isinstance(value, str):
        raise ConfigError(f"Secret {name} holds no text", hint="its value must be the password itself")
    return value


def _copy_path(name: str) -> Path:
    return Path(PREFECT_HOME.value()) / "etacore" / f"{name}.json"


def _keep_copy(name: str, block: Mapping[str, Any]) -> None:
    """Remember the block (which holds no secret) for a start without Prefect; a full disk is no reason to fail."""
    path = _copy_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(dict(block)).encode())
    except OSError:
        return


def _last_copy(name: str, say: Say) -> dict[str, Any]:
    try:
        block: dict[str, Any] = json.loads(_copy_path(name).read_text())
    except (OSError, ValueError):
        say(f"block {name} cannot be read without Prefect's API: going by flags and environment")
        return {}
    say(f"going by the last copy of block {name} on this machine")
    return {key: value for key, value in block.items() if key in SETTINGS}
