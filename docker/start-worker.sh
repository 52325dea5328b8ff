#!/bin/sh
# Start a worker of pool `gpu` in the folder of the project. Its health: http://127.0.0.1:8080/health, 503 once it no longer polls.
set -eu
: "${PREFECT_API_URL:?the address of the Prefect server, such as http://127.0.0.1:4311/api}"
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1
export PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1
export PREFECT_WORKER_WEBSERVER_PORT="${PREFECT_WORKER_WEBSERVER_PORT:-8080}"
exec prefect worker start --pool "${PREFECT_WORK_POOL:-gpu}" --type process --with-healthcheck
