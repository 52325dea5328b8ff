-- Run once by the Postgres image on an empty volume: a database for each server.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
