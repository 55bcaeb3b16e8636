#!/bin/sh
# Makes the passwords that docker-compose.yml reads, and tells .env where they are.
# A file that is there is kept: the database knows only the password it was made with.
set -eu
cd "$(dirname "$0")/.."
folder=./deploy/secrets

random() { LC_ALL=C tr -dc A-Za-z0-9 </dev/urandom | head -c 24; }

keep() { # FILE TEXT
    [ -e "$folder/$1" ] || printf '%s\n' "$2" >"$folder/$1"
    # Containers run as users of their own, who must be able to read the file: what keeps others on
    # this machine out is the folder.
    chmod 444 "$folder/$1"
}

mkdir -p "$folder"
chmod 700 "$folder"
keep db_password "$(random)"
keep dashboard_login "tuner:$(random)"
keep grafana_password "$(random)"
grep -qs '^TUNER_SECRETS=' .env || echo "TUNER_SECRETS=$folder" >>.env
echo "The dashboard's name and password are in $folder/dashboard_login"
echo "Grafana's password, for the name admin, is in $folder/grafana_password"
