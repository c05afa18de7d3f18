"""Runs ministack with a fix: ECS must receive `desiredCount` as an integer.

A template parameter arrives as a string, and ministack's ECS does arithmetic with it.
"""

import sys

from ministack.app import main
from ministack.services import ecs


def with_integer_count(call):
    """Returns `call` with the request's `desiredCount` converted to an integer."""

    def wrapper(request):
        if request.get("desiredCount") is not None:
            request = {**request, "desiredCount": int(request["desiredCount"])}
        return call(request)

    return wrapper


ecs._create_service = with_integer_count(ecs._create_service)
ecs._update_service = with_integer_count(ecs._update_service)
sys.exit(main())
