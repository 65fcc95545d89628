"""Make a bucket where there is none: python bucket.py NAME, the store as boto3 finds it in the environment."""

import sys

import boto3

client = boto3.client("s3")
name = sys.argv[1]
if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
    client.create_bucket(Bucket=name)
