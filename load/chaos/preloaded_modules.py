"""Run once in the fork server: loads what every process of a round needs, so that all share it."""

from __future__ import annotations

import sys
from pathlib import Path

import boto3
import pg8000.native

sys.path.insert(0, str(Path(__file__).parents[2]))

import lambda_migrate.aws.telemetry
import lambda_migrate.engine.operations
import lambda_migrate.postgresql.driver
import lambda_migrate.postgresql.non_transactional
import lambda_migrate.wiring
import load.chaos.process

PRELOADED = (pg8000.native, lambda_migrate, load.chaos.process)

# Reading DynamoDB's service description is most of what a first client costs.
boto3.client(
    "dynamodb",
    region_name="us-east-1",
    aws_access_key_id="warm",
    aws_secret_access_key="warm",  # noqa: S106 - never sent
).close()
