"""One DynamoDB GetItem by the standard library alone, so that reading the item loads no boto3.

::

    reader    asks, and judges the answer: the item, "come back later", or no answer
    caller    who signs and where to, as botocore would resolve it; or None
    sigv4     the signature
    wire      one HTTP/1.1 exchange on a socket, bounded in time and size

It is never an authority. What it cannot answer beyond doubt boto3 is asked, from scratch.
"""
