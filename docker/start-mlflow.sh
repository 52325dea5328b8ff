#!/bin/sh
# Start the MLflow server on Postgres. Postgres is named by libpq's own variables: PGHOST, PGPORT, PGUSER, PGPASSWORD.
# MLFLOW_ARTIFACTS_DESTINATION is a folder or s3://bucket/prefix; clients reach the artifacts through this server.
set -eu
: "${PGHOST:?the name of the Postgres server}" "${PGUSER:?the Postgres user}" "${PGPASSWORD:?the password of that user}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?a folder or s3://bucket/prefix for the artifacts}"
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
# The job workers serve MLflow's generative AI features, which this project does not use: a dozen idle processes.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# Names no server, user or password: libpq takes them from the environment, so they appear in no process list and need no escapes.
export MLFLOW_BACKEND_STORE_URI="postgresql+psycopg2:///${PGDATABASE:-mlflow}"
# A request with another Host header is refused, which stops DNS rebinding. Add the name that clients use.
export MLFLOW_SERVER_ALLOWED_HOSTS="${MLFLOW_SERVER_ALLOWED_HOSTS:-localhost,localhost:*,127.0.0.1,127.0.0.1:*}"
exec mlflow server --host "${MLFLOW_HOST:-127.0.0.1}" --port "${MLFLOW_PORT:-5000}" \
    --workers "${MLFLOW_WORKERS:-2}" --serve-artifacts
