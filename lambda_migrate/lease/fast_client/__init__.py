"""DynamoDB's GetItem and UpdateItem by the standard library alone: no boto3 is loaded for them.

::

    client    asks, and tells the item, "come back later", or nothing
    answer    what came back, judged
    caller    who signs and where to, as botocore would resolve_config it; or None
    sigv4     the signature
    wire      one HTTP/1.1 exchange on a socket, bounded in time and size

It is never an authority. What it cannot answer beyond doubt boto3 is asked, from scratch.
"""
