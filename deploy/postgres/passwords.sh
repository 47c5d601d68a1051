#!/bin/sh
# Gives the roles of roles.sql their passwords, for the compose file. The reader has none, and cannot log in, until you give it one.
set -eu
psql --set ON_ERROR_STOP=1 --set owner="$POSTGRES_PASSWORD" --set app="$NIGHTSHIFT_APP_PASSWORD" \
	--username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
ALTER ROLE nightshift_owner PASSWORD :'owner';
ALTER ROLE nightshift_app PASSWORD :'app';
SQL
