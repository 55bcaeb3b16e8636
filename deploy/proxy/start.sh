#!/bin/sh
# Start nginx with the logins from a secret file, one user:password a line.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# For nginx, a second colon would end the password early.
if [ ! -s "$DASHBOARD_LOGIN_FILE" ] || grep -Eqv '^[^#:]+:[^:]+$' "$DASHBOARD_LOGIN_FILE"; then
    echo "$DASHBOARD_LOGIN_FILE: expected user:password on every line, and no other colon" >&2
    exit 2
fi

# Hashes would hide nothing: anyone who can read this file can read the secret, too.
umask 077
sed 's/:/:{PLAIN}/' "$DASHBOARD_LOGIN_FILE" >/tmp/users
exec nginx -e stderr -c "$here/nginx.conf"
