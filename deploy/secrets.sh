#!/bin/sh
# Create the passwords that docker-compose.yml reads, and add their folder to .env. Also make the files
# that it mounts readable for the containers' users, because under umask 077 a checkout is not.
# Existing passwords are kept: the database accepts only the one it was created with.
set -eu
cd "$(dirname "$0")/.."
folder=./deploy/secrets

random() { LC_ALL=C tr -dc A-Za-z0-9 </dev/urandom | head -c 24; }

keep() { # FILE TEXT
    [ -e "$folder/$1" ] || printf '%s\n' "$2" >"$folder/$1"
    # Containers run as other users, who must be able to read the file. The folder's mode keeps
    # out the other users of this machine.
    chmod 444 "$folder/$1"
}

for mounted in deploy/proxy deploy/prometheus.yml deploy/grafana studies; do
    [ ! -e "$mounted" ] || chmod -R a+rX "$mounted"
done

mkdir -p "$folder"
chmod 700 "$folder"
keep db_password "$(random)"
keep dashboard_login "tuner:$(random)"
keep grafana_password "$(random)"
grep -qs '^TUNER_SECRETS=' .env || echo "TUNER_SECRETS=$folder" >>.env
echo "Dashboard user and password: $folder/dashboard_login"
echo "Grafana password for the user admin: $folder/grafana_password"
