"""Handlers for AWS Lambda that migrate at other times than a cold start.

`admin` runs the commands of the command line inside the VPC; `custom_resource` and `codedeploy`
migrate while a stack or an alias is updated. Each module has a ``handler(event, context)``.
"""
