#!/bin/sh
# Start a Docker engine with Compose on a Debian machine that has none, and build stand-ins for the
# images that docker-compose.yml and the Dockerfile start from. For machines that reach no image
# registry: everything comes from Debian's archive, as this machine's apt is configured.
#
#   eval "$(sh tests/engine/start.sh FOLDER)"     as root; takes some minutes the first time
#   pytest tests/acceptance/test_containers.py
#   kill "$(cat FOLDER/docker.pid)"
#
# The stand-ins have the names of the real images, but Debian 13's versions: do not push them.
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
suite=trixie

exec 3>&1 1>&2 # only the variables at the end go to standard output
apt-get install --yes --no-install-recommends docker.io iptables mmdebstrap >"$folder/apt.log"
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)

# Compose and buildx are plug-ins, of which this release of Debian has no or too old versions.
export DOCKER_CONFIG="$folder/config" DOCKER_HOST="unix://$folder/docker.sock"
if [ ! -d "$DOCKER_CONFIG/cli-plugins" ]; then
    mkdir -p "$folder/debs/lists/partial" "$DOCKER_CONFIG/part"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
        >"$folder/debs/sources.list"
    set -- -o Dir::Etc::sourcelist="$folder/debs/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$folder/debs/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    apt-get "$@" update >>"$folder/apt.log"
    (cd "$folder/debs" && apt-get "$@" -o APT::Sandbox::User=root download \
        "docker-compose/$suite" "docker-buildx/$suite" >>"$folder/apt.log")
    for deb in "$folder"/debs/*.deb; do
        dpkg -x "$deb" "$folder/debs"
    done
    find "$folder/debs" -path '*cli-plugins/*' -type f -exec cp {} "$DOCKER_CONFIG/part/" \;
    mv "$DOCKER_CONFIG/part" "$DOCKER_CONFIG/cli-plugins"
fi

if ! docker info >/dev/null 2>&1; then
    setsid dockerd --data-root "$folder/data" --exec-root "$folder/run" --host "$DOCKER_HOST" \
        --pidfile "$folder/docker.pid" >"$folder/dockerd.log" 2>&1 </dev/null &
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && break
        sleep 1
    done
    docker info >/dev/null
fi

# Builds see this machine's names, certificates and pip settings, as a process outside would.
cp /etc/ssl/certs/ca-certificates.crt "$folder/certificates.crt"
cat /etc/pip.conf >"$folder/pip.conf" 2>/dev/null || : >"$folder/pip.conf"
cp "$here/Dockerfile" "$here/postgres.sh" "$folder/"
names=$(awk '$1 !~ /^(#|127\.|::|fe00|ff0)/ { for (i = 2; i <= NF; i++) print "--add-host=" $i ":" $1 }' /etc/hosts)

docker image inspect debian-stand-in >/dev/null 2>&1 ||
    mmdebstrap --variant=minbase --include=ca-certificates "$suite" - "$mirror" 2>"$folder/debian.log" |
    docker import - debian-stand-in
for image in python:3.12-slim postgres:17-alpine nginx:1-alpine; do
    docker image inspect "$image" >/dev/null 2>&1 ||
        DOCKER_BUILDKIT=1 docker build --quiet --network host $names --target "${image%%:*}" \
            --tag "$image" --file "$folder/Dockerfile" "$folder"
done
echo "export DOCKER_CONFIG='$DOCKER_CONFIG' DOCKER_HOST='$DOCKER_HOST'" >&3
