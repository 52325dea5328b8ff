#!/bin/sh
# Make the work pool where it is missing, and register the deployments of prefect.yaml in this folder. Safe to repeat.
set -eu
: "${PREFECT_API_URL:?the address of the Prefect server, such as http://127.0.0.1:4311/api}"
export DO_NOT_TRACK=true
pool="${PREFECT_WORK_POOL:-gpu}"
# Not --overwrite: that would reset a limit set on the pool.
prefect work-pool inspect "$pool" >/dev/null 2>&1 || prefect --no-prompt work-pool create "$pool" --type process
exec prefect --no-prompt deploy --all </dev/null
