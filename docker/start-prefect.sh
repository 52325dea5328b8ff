#!/bin/sh
# Start the Prefect server on Postgres. Postgres is named by libpq's own variables: PGHOST, PGPORT, PGUSER, PGPASSWORD.
# Everything else is a setting of Prefect (PREFECT_SERVER_...); without one it listens on loopback.
set -eu
: "${PGHOST:?the name of the Postgres server}" "${PGUSER:?the Postgres user}" "${PGPASSWORD:?the password of that user}"
export DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false
export PREFECT_SERVER_API_HOST="${PREFECT_SERVER_API_HOST:-127.0.0.1}"
export PREFECT_SERVER_API_PORT="${PREFECT_SERVER_API_PORT:-4311}"
# In parts and not as a URL, so that a password may hold any character.
export PREFECT_SERVER_DATABASE_DRIVER=postgresql+asyncpg
export PREFECT_SERVER_DATABASE_HOST="$PGHOST"
export PREFECT_SERVER_DATABASE_PORT="${PGPORT:-5432}"
export PREFECT_SERVER_DATABASE_USER="$PGUSER"
export PREFECT_SERVER_DATABASE_PASSWORD="$PGPASSWORD"
export PREFECT_SERVER_DATABASE_NAME="${PGDATABASE:-prefect}"
exec prefect server start
