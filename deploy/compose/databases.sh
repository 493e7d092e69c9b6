#!/bin/sh
# PostgreSQL runs this when it sets itself up: a database for each server, and a role that owns it and no other.
set -eu
for name in users preferences accounts; do
    variable=$(echo "$name" | tr a-z A-Z)_PASSWORD
    eval "password=\$$variable"
    # shellcheck disable=SC2154  # it is set by eval
    psql --username postgres --set ON_ERROR_STOP=1 --set name="$name" --set password="$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
