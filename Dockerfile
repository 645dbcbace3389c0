# One image for the services of docker-compose.prefect.yml, and a larger one for the service that trains models.
#   docker build --tag eta-prefect .
#   docker build --tag eta-prefect-training --target training .

# No compiler here: whatever the lock names must come as a wheel. The locks are complete, so nothing is resolved.
FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/etacore/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/etacore
WORKDIR /build
COPY requirements-image.lock ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir /var/cache/pip --no-deps --require-hashes -r requirements-image.lock

FROM base AS builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src_ext src_ext
COPY etacore etacore
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist .

FROM base AS runtime
COPY --from=builder /dist /dist
RUN pip install --no-cache-dir --no-deps --no-index /dist/*.whl
# A volume takes the owner of the directory it is mounted over; flows write their latency files to /app/profiling.
RUN useradd --uid 10001 --create-home etacore \
    && install --directory --owner etacore --group etacore \
        /var/lib/etacore /var/lib/prefect /app/profiling /app/datasets /app/recordings /app/models/trained
WORKDIR /app
COPY containers/entrypoint.sh prefect.yaml ./
COPY flows flows
COPY --chown=10001:10001 models models
ENV PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    MODEL_REGISTRY_DIR=/app/models/trained \
    PREFECT_HOME=/var/lib/prefect \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=90 \
    PREFECT_CLIENT_MAX_RETRIES=1
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 \
    CMD ["sh", "/app/entrypoint.sh", "etacore", "doctor"]
ENTRYPOINT ["sh", "/app/entrypoint.sh"]
CMD ["etacore", "run"]

# Saving a model compiles it, so this one keeps its compiler.
FROM runtime AS training
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-training.lock /build/
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir /var/cache/pip --no-deps --require-hashes -r /build/requirements-training.lock
ENV ETACORE_DATASET_DIR=/app/datasets \
    ETACORE_RESULTS_DIR=/app/datasets/evaluations \
    ETA_TELEMETRY_SOURCE=/app/recordings/positions \
    ETA_GTFS_PATH=/app/recordings/gtfs.zip
USER 10001:10001

# What `docker build` makes when it is not told which.
FROM runtime AS default
