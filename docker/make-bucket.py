#!/usr/bin/env python3
"""Make the bucket that MLFLOW_ARTIFACTS_DESTINATION (s3://bucket/prefix) names, where it is missing."""

import os
import sys
from urllib.parse import urlparse

import boto3
from botocore.exceptions import ClientError

destination = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
url = urlparse(destination)
if url.scheme != "s3" or not url.netloc:
    sys.exit(f"expected MLFLOW_ARTIFACTS_DESTINATION=s3://bucket/prefix, got {destination!r}: set it in docker/.env")
store = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
try:
    store.head_bucket(Bucket=url.netloc)
except ClientError as error:
    if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
        raise
    store.create_bucket(Bucket=url.netloc)
print(f"bucket {url.netloc} is there")
