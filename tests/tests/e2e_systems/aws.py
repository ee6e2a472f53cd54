"""What a test of AWS as a target does there by AWS's own SDK: aws.py PORT ACTION, with keys from the environment or files that the SDK reads."""

import json
import sys

import boto3
from botocore.exceptions import ClientError

port, action = sys.argv[1:3]
# Those of before the first key are let in whoever asks.
at = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "eu-central-1"}


def policy(actions, resource="*"):
    statement = {"Effect": "Allow", "Action": actions, "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def services(key=None):
    session = boto3.Session(aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"]) if key else boto3.Session()
    return session.client("iam", **at), session.client("sts", **at)


if action == "prepare":
    nobody = {"AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "SecretAccessKey": "none"}
    iam, _ = services(nobody)
    iam.create_user(UserName="admin")
    iam.put_user_policy(UserName="admin", PolicyName="all", PolicyDocument=policy("*"))
    admin = iam.create_access_key(UserName="admin")["AccessKey"]
    # From here on nobody is without the right.
    iam, _ = services(admin)
    iam.create_user(UserName="executor")
    iam.put_user_policy(UserName="executor", PolicyName="vault", PolicyDocument=policy(["iam:*", "sts:*"]))
    iam.create_group(GroupName="readers")
    iam.put_group_policy(GroupName="readers", PolicyName="read", PolicyDocument=policy("iam:ListGroups"))
    executor = iam.create_access_key(UserName="executor")["AccessKey"]
    print(json.dumps({"admin": [admin["AccessKeyId"], admin["SecretAccessKey"]], "executor": [executor["AccessKeyId"], executor["SecretAccessKey"]]}))
elif action == "who":
    iam, sts = services()
    try:
        said = {"arn": sts.get_caller_identity()["Arn"]}
        try:
            said["groups"] = [group["GroupName"] for group in iam.list_groups()["Groups"]]
        except ClientError as refused:
            said["refused"] = refused.response["Error"]["Code"]
        try:
            iam.list_users()
            said["power"] = True
        except ClientError:
            said["power"] = False
    except ClientError as refused:
        said = {"refused": refused.response["Error"]["Code"]}
    print(json.dumps(said))
elif action == "another":
    iam, _ = services()
    key = iam.create_access_key(UserName="executor")["AccessKey"]
    print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
elif action == "delete":
    # The oldest one.
    iam, _ = services()
    keys = iam.list_access_keys(UserName="executor")["AccessKeyMetadata"]
    oldest = min(keys, key=lambda key: key["CreateDate"])["AccessKeyId"]
    iam.delete_access_key(UserName="executor", AccessKeyId=oldest)
    print(json.dumps(oldest))
elif action == "users":
    iam, _ = services()
    print(json.dumps([user["UserName"] for user in iam.list_users()["Users"]]))
else:
    sys.exit(f"{action}: what is that?")
