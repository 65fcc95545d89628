#!/usr/bin/env bash
# Write docker/.env with fresh secrets, readable by its owner only. Existing secrets stay.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
touch .env
for name in RAY_AUTH_TOKEN POSTGRES_PASSWORD MLFLOW_ADMIN_PASSWORD MLFLOW_FLASK_SECRET S3_SECRET_KEY GRAFANA_ADMIN_PASSWORD; do
  if ! grep -q "^$name=." .env; then
    printf '%s=%s\n' "$name" "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" >> .env
    echo "made $name"
  fi
done
echo "secrets are in $PWD/.env"
