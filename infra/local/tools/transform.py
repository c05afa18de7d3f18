"""Applies the SAM transform to a template, offline, and prints the CloudFormation template as JSON.

Usage: transform.py TEMPLATE
"""

import json
import sys
from pathlib import Path

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse


class Policies:
    """AWS's managed policies by name. It is empty, because the template names none."""

    def load(self):
        return {}


def main():
    template = yaml_parse(Path(sys.argv[1]).read_text())
    for resource in template["Resources"].values():
        # The transform requires the addresses that `sam package` would insert.
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
        elif resource["Type"] == "AWS::CloudFormation::Stack":
            resource["Properties"]["TemplateURL"] = "https://s3.amazonaws.com/bucket/key"
    print(json.dumps(transform(template, {}, Policies()), indent=2, default=str))


main()
