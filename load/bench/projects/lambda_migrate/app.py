import time

from lambda_migrate import migrate_on_cold_start


class Context:
    aws_request_id = "bench"
    function_name = "bench"

    def get_remaining_time_in_millis(self):
        return 120_000


@migrate_on_cold_start
def handler(event, context):
    return time.time()
