#!/bin/sh
# Start nginx with the logins from a secret file, one user:password per line.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# nginx would end the password at a second colon.
if [ ! -s "$DASHBOARD_LOGIN_FILE" ] || grep -Eqv '^[^#:]+:[^:]+$' "$DASHBOARD_LOGIN_FILE"; then
    echo "$DASHBOARD_LOGIN_FILE: expected user:password on every line, and no other colon" >&2
    exit 2
fi

# Hashing would protect nothing: anyone who can read this file can also read the secret.
umask 077
sed 's/:/:{PLAIN}/' "$DASHBOARD_LOGIN_FILE" >/tmp/users
exec nginx -e stderr -c "$here/nginx.conf"
