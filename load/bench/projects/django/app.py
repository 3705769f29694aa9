import os

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

import django
from django.core.management import call_command
from django.core.management.commands import migrate

django.setup()


def handler(event, context):
    call_command("migrate", interactive=False, verbosity=0)
