"""ministack, with one fault of it mended: a template's parameter reaches ECS as text, and ECS counts with it."""

import sys

from ministack.app import main
from ministack.services import ecs


def with_a_number(call):
    def called(request):
        if request.get("desiredCount") is not None:
            request = {**request, "desiredCount": int(request["desiredCount"])}
        return call(request)

    return called


ecs._create_service = with_a_number(ecs._create_service)
ecs._update_service = with_a_number(ecs._update_service)
sys.exit(main())
