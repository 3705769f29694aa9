"""Who may try: the lease of a target, kept in DynamoDB."""
