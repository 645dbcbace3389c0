"""The commands as a user types them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from etacore.config import DEFAULT_REGISTRY_DIR, SHIPPED_REGISTRY_DIR
from etacore.models.registry import Registry
from etacore.models.short_ids import short_ids
from etacore.schema import BASE_FEATURES
from etacore.store.server import RedisServer
from tests import models
from tests.conftest import ROOT
from tests.fleet import ROUTE, iso, payload, stops_blob

SECRET = "correct-horse-battery"


def etacore(*arguments: str, registry_dir: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "etacore", *arguments],
        env=os.environ | {"MODEL_REGISTRY_DIR": str(registry_dir)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_run_serves_and_stops_by_itself(
    redis_server: RedisServer, redis_client: redis.Redis, registry_dir: Path
) -> None:
    redis_client.set(f"route_stops:{ROUTE}", stops_blob())
    redis_client.set("vehicle:BUS-1", payload())
    done = etacore(
        "run",
        "--iterations",
        "2",
        "--poll-interval",
        "0.01",
        "--redis-url",
        redis_server.url,
        registry_dir=registry_dir,
    )
    assert done.returncode == 0, done.stderr
    assert "1 predicted, 1 unchanged, 0 rejected, 0 failed" in done.stderr
    assert redis_client.exists("predictions:BUS-1")


def test_sigterm_finishes_the_batch_and_exits_0(
    redis_server: RedisServer, redis_client: redis.Redis, registry_dir: Path, wait_until: Any
) -> None:
    redis_client.set(f"route_stops:{ROUTE}", stops_blob())
    redis_client.set("vehicle:BUS-1", payload(timestamp=iso()))
    process = subprocess.Popen(
        [sys.executable, "-m", "etacore", "run", "--redis-url", redis_server.url],
        env=os.environ | {"MODEL_REGISTRY_DIR": str(registry_dir)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: redis_client.exists("predictions:BUS-1"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert "Traceback" not in process.communicate()[1]
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--redis-url", "redis://127.0.0.1:1/0"], "redis_host"),
        (["--model-key", "absent"], "Model absent not found in registry (set model_key"),
        (["--model-registry-dir", "nowhere"], "MODEL_REGISTRY_DIR"),
        (["--max-stops", "0"], "max_stops_per_vehicle is 0"),
        (["--poll-interval", "-1"], "poll_interval_seconds"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    arguments: list[str], named: str, redis_server: RedisServer, registry_dir: Path
) -> None:
    done = etacore("run", "--iterations", "1", *arguments, registry_dir=registry_dir, REDIS_URL=redis_server.url)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_password_names_the_setting_and_stays_secret(locked_redis: RedisServer, registry_dir: Path) -> None:
    done = etacore(
        "run",
        "--iterations",
        "1",
        "--redis-password",
        SECRET,
        "--redis-port",
        str(locked_redis.port),
        registry_dir=registry_dir,
    )
    assert done.returncode == 2
    assert "REDIS_PASSWORD" in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_a_password_on_the_command_line_leaves_the_process_list(
    locked_redis: RedisServer, registry_dir: Path, wait_until: Any
) -> None:
    assert locked_redis.password is not None
    client = locked_redis.client()
    client.set(f"route_stops:{ROUTE}", stops_blob())
    client.set("vehicle:BUS-1", payload())
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "etacore",
            "run",
            f"--redis-password={locked_redis.password}",
            "--redis-port",
            str(locked_redis.port),
        ],
        env=os.environ | {"MODEL_REGISTRY_DIR": str(registry_dir)},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: client.exists("predictions:BUS-1"))
        assert locked_redis.password.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_doctor_says_what_is_there(redis_server: RedisServer, registry_dir: Path) -> None:
    done = etacore("doctor", "--redis-url", redis_server.url, registry_dir=registry_dir)
    assert done.returncode == 0, done.stdout
    assert "hash and schema match" in done.stdout


def test_doctor_says_what_to_do(tmp_path: Path) -> None:
    done = etacore("doctor", "--redis-url", "redis://127.0.0.1:1/0", registry_dir=tmp_path)
    assert done.returncode == 1
    assert "REDIS_HOST" in done.stdout
    assert "etacore compile" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["replay", "POSITIONS", "--gtfs", "FEED", "--json", "nowhere/scores.json"], "nowhere"),
        (["replay", "POSITIONS", "--gtfs", "FEED", "--speed", "0"], "--speed"),
        (["demo", "--seconds", "nan"], "--seconds"),
        (["demo", "--seed", "-5"], "--seed"),
        (["compile", "POSITIONS", "--test-mae-seconds", "-1"], "--test-mae-seconds"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(arguments: list[str], named: str, tmp_path: Path) -> None:
    (tmp_path / "positions.csv").write_text("vehicle_id\n")
    (tmp_path / "feed").mkdir()
    places = {"POSITIONS": str(tmp_path / "positions.csv"), "FEED": str(tmp_path / "feed")}
    done = etacore(*(places.get(argument, argument) for argument in arguments), registry_dir=tmp_path)
    assert done.returncode == 2, done.stdout
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_compile_puts_a_model_into_the_registry(tmp_path: Path) -> None:
    arguments = ("compile", str(models.save()), "--dataset", "my_city", "--holiday-region", "CR", "--rounds", "9")
    done = etacore(*arguments, registry_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert key.startswith("xgboost_my_city_spatial-temporal_global_")
    assert "rows agree" in done.stderr
    assert Registry(tmp_path).load(key).features == BASE_FEATURES
    assert Registry(tmp_path).manifest(key).provenance["n_rounds"] == 9


def test_in_a_fresh_checkout_models_are_made_beside_the_shipped_one(
    redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """The quickstart without any setting: the shipped model serves, and what is made there leaves it as it is."""
    shutil.copytree(ROOT / SHIPPED_REGISTRY_DIR, tmp_path / SHIPPED_REGISTRY_DIR)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (shipped,) = Registry(tmp_path / SHIPPED_REGISTRY_DIR).keys()
    environment = {name: value for name, value in os.environ.items() if name != "MODEL_REGISTRY_DIR"}

    def here(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment | {"REDIS_URL": redis_server.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def served() -> Any:
        redis_client.set(f"route_stops:{ROUTE}", stops_blob())
        redis_client.set("vehicle:BUS-1", payload())
        here("-m", "etacore", "run", "--iterations", "1")
        return orjson.loads(redis_client.getdel("predictions:BUS-1") or b"null")["model_key"]

    bus = {"vehicle_id": "a", "lat": 9.9, "lon": -84.0, "timestamp": iso(), "route": ROUTE}
    stop = {"stop_id": "s", "lat": 9.91, "lon": -84.0, "stop_sequence": 1}
    call = f"from etacore.estimator import estimate_stop_times as e; print(e({bus!r}, [{stop!r}])['model_key'])"
    assert served() == here("-c", call).strip() == shipped
    assert not (tmp_path / DEFAULT_REGISTRY_DIR).exists()
    made = here("-m", "etacore", "compile", str(models.save()), "--dataset", "own").strip()
    assert Registry(tmp_path / DEFAULT_REGISTRY_DIR).keys() == [made]
    assert served() == here("-c", call).strip() == made
    assert before == {path: content for path in before if (content := path.read_bytes())}


def test_a_short_id_says_what_to_serve(
    redis_server: RedisServer, redis_client: redis.Redis, registry_dir: Path
) -> None:
    redis_client.set(f"route_stops:{ROUTE}", stops_blob())
    redis_client.set("vehicle:BUS-1", payload())
    keys = Registry(registry_dir).keys()
    ids = short_ids(keys)
    arguments = ("run", "--iterations", "1", "--redis-url", redis_server.url, "--model-key")
    done = etacore(*arguments, ids[keys[0]], registry_dir=registry_dir)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(redis_client.get("predictions:BUS-1") or b"null")["model_key"] == keys[0]


def test_compile_refuses_what_is_no_model(tmp_path: Path) -> None:
    source = tmp_path / "model.json"
    source.write_text('{"weights": [1, 2]}')
    done = etacore("compile", str(source), registry_dir=tmp_path / "registry")
    assert done.returncode == 2
    assert "model.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "registry" / "registry.json").exists()
