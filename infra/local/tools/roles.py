"""Prints the permissions of each program of a deployed stack, as JSON.

Usage: roles.py STACK. The endpoint and the credentials are in the environment.

{"roles": {program: {"arn": …, "policies": [{"name", "policy", "managed"}]}},
 "event_sources": [{"program", "arn"}], "log_groups": {program: arn}}

`policy` is null for a policy that AWS manages. The programs are the functions, the listener, and
`ecs`, which is ECS itself when it starts the listener.
"""

import json
import sys

import boto3

cloudformation = boto3.client("cloudformation")
functions = boto3.client("lambda")
iam = boto3.client("iam")


def resources(stack):
    """The physical ids of a stack's resources by their logical ids, and the types."""
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
    return {
        resource["LogicalResourceId"]: resource
        for page in pages
        for resource in page["StackResourceSummaries"]
    }


def default_version(arn):
    """The document of a policy of the account."""
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]


def role(name):
    """The ARN and the policies of a role."""
    policies = []
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        policies.append({"name": policy, "policy": document, "managed": False})
    for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        arn = policy["PolicyArn"]
        managed = arn.split(":")[4] == "aws"
        document = None if managed else default_version(arn)
        policies.append({"name": policy["PolicyName"], "policy": document, "managed": managed})
    return {"arn": iam.get_role(RoleName=name)["Role"]["Arn"], "policies": policies}


def main():
    stack = sys.argv[1]
    roles, event_sources, log_groups = {}, [], {}
    for resource in resources(stack).values():
        if resource["ResourceType"] != "AWS::Lambda::Function":
            continue
        name = resource["PhysicalResourceId"]
        program = name.removeprefix(f"{stack}-")
        function = functions.get_function_configuration(FunctionName=name)
        roles[program] = role(function["Role"].rsplit("/", 1)[1])
        log_groups[program] = function["LoggingConfig"]["LogGroup"]
        mappings = functions.list_event_source_mappings(FunctionName=name)
        for mapping in mappings["EventSourceMappings"]:
            event_sources.append({"program": program, "arn": mapping["EventSourceArn"]})
    listener = resources(resources(stack)["Listener"]["PhysicalResourceId"])
    roles["listener"] = role(listener["TaskRole"]["PhysicalResourceId"])
    roles["ecs"] = role(listener["ExecutionRole"]["PhysicalResourceId"])
    log_groups["ecs"] = listener["Logs"]["PhysicalResourceId"]
    repository = listener["Repository"]["PhysicalResourceId"]
    print(
        json.dumps(
            {
                "roles": roles,
                "event_sources": event_sources,
                "log_groups": log_groups,
                "repository": repository,
            }
        )
    )


main()
