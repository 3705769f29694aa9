"""DynamoDB's GetItem and UpdateItem with the standard library alone, so that boto3 is not loaded.

::

    client   sends a request; returns the item, raises "try again later", or declines
    request  credentials, region and endpoint, as botocore resolves them, and the signed request
    http     one HTTP/1.1 exchange on a socket, bounded in time and size, and what it means

The client never decides an unclear case. Where the environment asks for anything unusual (a
profile, a proxy, FIPS, dual-stack or account-based endpoints) or a response is not what DynamoDB
sends, it declines, and the same operation is done by boto3 from the beginning.

It does not use `http.client`, which takes 11 ms of CPU to import even where ssl is loaded (with
`email` and `urllib`; awslambdaric itself imports it only to report an error), has no timeout for
a whole response, and accepts responses that this client declines.
"""
