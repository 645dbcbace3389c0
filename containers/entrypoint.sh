# What a container starts: the command it was given, with the Redis password taken from a mounted file, so that it
# stands neither in the container's configuration nor in a process list.
set -eu
if [ -s "${REDIS_PASSWORD_FILE:-}" ] && [ -z "${REDIS_PASSWORD:-}" ]; then
    REDIS_PASSWORD=$(cat "$REDIS_PASSWORD_FILE")
    export REDIS_PASSWORD
fi
exec "$@"
