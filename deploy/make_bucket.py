"""Make a bucket on an S3-compatible store: make_bucket.py ADDRESS NAME. One that is there stays."""

import sys

import boto3

address, name = sys.argv[1:]
store = boto3.client("s3", endpoint_url=address)
if name not in [bucket["Name"] for bucket in store.list_buckets()["Buckets"]]:
    store.create_bucket(Bucket=name)
