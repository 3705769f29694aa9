"""Handlers for AWS Lambda that migrate on other occasions than a cold start.

`admin` runs the command line's verbs inside the VPC; `custom_resource` and `codedeploy` migrate
while a stack or an alias is being updated. Each module has a ``handler(event, context)``.
"""
