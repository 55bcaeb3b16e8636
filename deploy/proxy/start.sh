#!/bin/sh
# Starts nginx with the logins of a secret: name:password, one a line.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# To nginx a second colon would end the password early.
if [ ! -s "$DASHBOARD_LOGIN_FILE" ] || grep -Eqv '^[^#:]+:[^:]+$' "$DASHBOARD_LOGIN_FILE"; then
    echo "$DASHBOARD_LOGIN_FILE: expected name:password, no other colon, on every line" >&2
    exit 2
fi

# Hashes would hide nothing here: whoever can read this file can read the secret beside it.
umask 077
sed 's/:/:{PLAIN}/' "$DASHBOARD_LOGIN_FILE" >/tmp/users
exec nginx -e stderr -c "$here/nginx.conf"
