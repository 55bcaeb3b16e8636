#!/bin/sh
# The Optuna Dashboard on tuner's database. It reads no password file, but libpq reads PGPASSWORD:
# unlike an argument, ps does not show that to other users.
set -eu
PGPASSWORD=$(cat "$TUNER_PASSWORD_FILE")
export PGPASSWORD
exec optuna-dashboard "postgresql+psycopg://${TUNER_STORAGE#*://}" "$@"
