"""The image and the compose file: linted, held against the specification, and the image built and started."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from etacore.models.registry import Registry
from etacore.store.server import RedisServer
from tests import fleet, models
from tests.flows import compose
from tests.flows.image import ROOT, Image, built, built_for_training

pytestmark = pytest.mark.timeout(600)

PASSWORD: Final = "open-sesame-7"
TOOLS: Final = Path(sys.executable).parent
PIN: Final = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return built(tmp_path_factory)


@pytest.fixture(scope="module")
def training_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return built_for_training(tmp_path_factory)


def lint(*argv: str) -> None:
    done = subprocess.run([TOOLS / argv[0], *argv[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- the files ---------------------------------------------------------------------------------------------------------


def test_the_linter_has_nothing_to_say_about_the_dockerfile() -> None:
    lint("hadolint", "--no-color", "Dockerfile")


def test_the_compose_file_follows_the_specification() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", compose.FILE.name)


def test_the_specification_notices_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yml"
    wrong.write_text(compose.FILE.read_text().replace("    healthcheck:", "    helthcheck:", 1))
    with pytest.raises(AssertionError, match="helthcheck"):
        lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong))


def test_every_service_restarts_and_is_watched() -> None:
    services = compose.load()["services"]
    init = services.pop("prefect-init")
    assert init["restart"] == "no"
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert {"test", "interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"]), name
    assert float(services["prefect-server"]["healthcheck"]["start_period"].rstrip("s")) >= 60


def test_only_loopback_is_published_unless_asked_for() -> None:
    def ports(variables: dict[str, str] | None = None) -> set[str]:
        services = compose.load(variables)["services"].values()
        return {port for service in services for port in service.get("ports", ())}

    assert ports() == {"127.0.0.1:4200:4200", "127.0.0.1:6380:6379"}
    assert ports({"ETA_BIND": "10.0.0.5"}) == {"10.0.0.5:4200:4200", "10.0.0.5:6380:6379"}


def test_volumes_and_secrets_that_are_used_are_declared() -> None:
    document = compose.load()
    for service in document["services"].values():
        assert {mount.split(":")[0] for mount in service.get("volumes", ())} <= set(document["volumes"])
        assert set(service.get("secrets", ())) <= set(document["secrets"])
        assert set(service.get("depends_on", ())) <= set(document["services"])
        assert "REDIS_PASSWORD" not in service.get("environment", {})


LOCKS: Final = {
    "requirements-image.lock": {"prefect", "numpy", "redis", "cython"},
    "requirements-training.lock": {"prefect", "numpy", "xgboost-cpu", "polars", "matplotlib", "prefect-dask"},
}


@pytest.mark.parametrize("name", LOCKS)
def test_an_image_installs_the_versions_that_are_tested(name: str) -> None:
    tested = set(PIN.findall((ROOT / "requirements.lock").read_text()))
    names = {name for name, _ in tested}
    text = (ROOT / name).read_text()
    installed = set(PIN.findall(text))
    assert LOCKS[name] <= {name for name, _ in installed}
    assert {pin for pin in installed if pin[0] in names} <= tested
    assert "://" not in text


def test_the_trainer_writes_models_where_the_loop_reads_them() -> None:
    services = compose.load()["services"]
    assert "models:/app/models/trained" in services["eta-trainer"]["volumes"]
    assert "models:/app/models/trained:ro" in services["eta-runtime"]["volumes"]
    assert {"datasets:/app/datasets", "recordings:/app/recordings"} <= set(services["eta-trainer"]["volumes"])
    assert "eta-training-pool" in services["eta-trainer"]["command"]


# -- the image ---------------------------------------------------------------------------------------------------------


def test_only_debian_packages_and_the_account_could_not_be_made_here(image: Image) -> None:
    packages, account = image.left_out
    assert packages.startswith("apt-get update && apt-get install ")
    assert account.startswith("useradd ")
    assert image.stage.user == "10001:10001"


def test_the_compiled_modules_are_those_of_the_wheel(image: Image) -> None:
    assert not list((image.context / "etacore").rglob("*.so"))
    code = "from etacore._kernels import encode, forest; import flows; print(forest.__file__, flows.__file__)"
    done = image.run(["python", "-c", code])
    assert done.returncode == 0, done.stderr
    module, flows = done.stdout.split()
    assert module.startswith(f"{image.root}/opt/etacore/lib/")
    assert module.endswith(".so")
    assert flows == f"{image.root}/app/flows/__init__.py"


def test_nothing_that_is_installed_lacks_another_package(image: Image, training_image: Image) -> None:
    for one in (image, training_image):
        done = one.run(["python", "-m", "pip", "check"])
        assert done.returncode == 0, done.stdout


def test_there_is_no_compiler(image: Image) -> None:
    path = image.environment()["PATH"]
    assert shutil.which("python", path=path) == f"{image.root}/opt/etacore/bin/python"
    assert not [name for name in ("gcc", "cc", "clang", "g++", "ld", "as") if shutil.which(name, path=path)]


def test_the_training_image_compiles_a_model(training_image: Image, tmp_path: Path) -> None:
    (packages,) = training_image.left_out
    assert " gcc libc6-dev " in packages
    assert training_image.stage.user == "10001:10001"
    folder = tmp_path / "models"
    model = models.save(rounds=2)
    done = training_image.run(["etacore", "compile", str(model), "--model-registry-dir", str(folder)])
    assert done.returncode == 0, done.stderr
    assert Registry(folder).load(done.stdout.strip()).key == done.stdout.strip()


@pytest.fixture
def locked_redis() -> Iterator[RedisServer]:
    with RedisServer(tcp=True, password=PASSWORD) as server:
        yield server


def test_what_the_entrypoint_starts_predicts_and_ends_when_told(
    image: Image, locked_redis: RedisServer, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    secret = tmp_path / "redis_password"
    secret.write_text(PASSWORD + "\n")
    environment = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(locked_redis.port),
        "REDIS_PASSWORD_FILE": os.fspath(secret),
    }
    stage = image.stage
    with locked_redis.client() as client, (tmp_path / "output").open("wb") as output:
        client.set(f"route_stops:{fleet.ROUTE}", fleet.stops_blob())
        client.set("vehicle:BUS-1", fleet.payload())
        process = image.start([*stage.entrypoint, *stage.command], environment, output)
        try:
            wait_until(lambda: client.exists("predictions:BUS-1") or process.poll() is not None, timeout_s=30)
            assert client.exists("predictions:BUS-1"), (tmp_path / "output").read_text()
            assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert image.run(stage.health_command, environment).returncode == 0
            process.terminate()
            assert process.wait(10) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    locked_redis.stop()
    sick = image.run(stage.health_command, environment)
    assert sick.returncode == 1
    assert "cannot be reached" in sick.stdout
    assert PASSWORD not in sick.stdout + sick.stderr + (tmp_path / "output").read_text()
