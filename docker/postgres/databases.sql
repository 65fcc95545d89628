-- beside ssl_sweep, the ledger, which the image itself makes; run once, when the volume is new
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
CREATE DATABASE service;
