"""Runs ministack with a fix: counts must be integers.

A template parameter arrives as a string. AWS converts it, and ministack calculates with it.
"""

import sys

from ministack.app import main
from ministack.services import ecs, lambda_svc


def with_integer(call, *path):
    """Returns `call` with the integer at this path of its first argument converted to one."""
    *folders, name = path

    def wrapper(request, *others):
        values = request
        for folder in folders:
            values = values.get(folder) or {}
        if values.get(name) is not None:
            values[name] = int(values[name])
        return call(request, *others)

    return wrapper


ecs._create_service = with_integer(ecs._create_service, "desiredCount")
ecs._update_service = with_integer(ecs._update_service, "desiredCount")
lambda_svc._sqs_esm_concurrency = with_integer(
    lambda_svc._sqs_esm_concurrency, "ScalingConfig", "MaximumConcurrency"
)
sys.exit(main())
