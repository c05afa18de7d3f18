"""Prints a template as CloudFormation will see it, as JSON: the SAM transform done here, offline.

Usage: transform.py TEMPLATE
"""

import json
import sys
from pathlib import Path

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse


class Policies:
    """The transform asks for AWS's managed policies; this template names none."""

    def load(self):
        return {}


def main():
    template = yaml_parse(Path(sys.argv[1]).read_text())
    for resource in template["Resources"].values():
        # The transform wants what `sam package` would have put here.
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
        elif resource["Type"] == "AWS::CloudFormation::Stack":
            resource["Properties"]["TemplateURL"] = "https://s3.amazonaws.com/bucket/key"
    print(json.dumps(transform(template, {}, Policies()), indent=2, default=str))


main()
