"""Runs moto with a fix: an endpoint is identified by its platform application and its token.

moto looks for the token in all platform applications of the account. SNS looks for it in the one
that the request names:
https://docs.aws.amazon.com/sns/latest/api/API_CreatePlatformEndpoint.html
"""

import sys

from moto.server import main
from moto.sns.models import SNSBackend

create_or_find = SNSBackend.create_platform_endpoint


def create_platform_endpoint(self, application, custom_user_data, token, attributes):
    """Hides the endpoints of the other applications from moto. The proxy sends one change at a time."""
    everything = self.platform_endpoints
    self.platform_endpoints = {
        arn: endpoint
        for arn, endpoint in everything.items()
        if endpoint.application.arn == application.arn
    }
    try:
        endpoint = create_or_find(self, application, custom_user_data, token, attributes)
    finally:
        self.platform_endpoints = everything
    everything[endpoint.arn] = endpoint
    return endpoint


SNSBackend.create_platform_endpoint = create_platform_endpoint
sys.exit(main())
