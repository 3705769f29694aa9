"""The lease: which process may try to migrate a target, and what a starting process has to know.

The lease makes migrating efficient: of a thousand processes that start together, one connects to
the database and the others do not. It does not make migrating safe. A process that lost its lease
without noticing it can commit nothing, because the fence in PostgreSQL refuses its fencing token
(`lambda_migrate.postgresql`). So a lease may expire too early, or be granted twice, without harm.

One item
    A target is one database. It has one item in a DynamoDB table, which is never deleted: its
    counter ``fence`` is the source of the fencing tokens. `record` has the item as values, `codec`
    its attributes, `store` the port, `dynamodb` and `memory` its two implementations.

States
    ::

                       acquire: fence + 1, owner, lease_until
            FREE ------------------------------------------------> HELD <---+  renew, advance_fence,
             ^                                                     |  |  |  |  withdraw_readiness
             |   store_completion, store_inspection,               |  |  +--+
             |   store_failure, release                            |  |
             +-----------------------------------------------------+  |
                                                                      |  not renewed
                      acquire: fence + 1, another owner               v
            HELD <------------------------------------------------ EXPIRED

Who may write what
    Every write is one conditional UpdateItem; there is no other way to change the item.

    - ``acquire`` requires that ``fence`` is still the one that the decision was made on, and that
      there is no owner or the lease has expired. The loser gets the current item with the refusal.
    - All other writes require the writer's own owner *and* fencing token. ``renew`` moves the end
      of the lease and publishes the progress; ``withdraw_readiness`` removes from ``ready``
      what is about to be rolled back; ``advance_fence`` raises the counter above a higher token in
      PostgreSQL, which is there if the item was deleted. ``store_completion`` stores what is ready,
      ``store_failure`` a failure, and each of them releases the lease in the same write.
    - A write whose response was lost is repeated and finds its own result. The owner is unique for
      every attempt, so the item shows whose result it is, and that counts as success.

Trust
    ::

        attempt starts         response                   trusted_until        lease_until
        |---- request ---------|---- work, renew every third ----|---- margin 1 s ----|

    The holder counts from *before* the request, on its monotonic clock, and stops a second before
    the lease ends (`store.Lease.trusted_until`). `heartbeat` renews the lease at a third of its
    length while migrations run. It aborts the running statement if the lease was lost, if it could
    not be renewed while it could be trusted, or at the deadline. Then the holder stops.

Deciding and waiting
    `decision.decide` is a pure function of one reading: serve, refuse, wait, acquire, or report
    that a feature flag blocks. `waiter` repeats reading and deciding; `backoff` has the delays. The
    first read is strongly consistent, a waiter's reads are not, and one strongly consistent read
    confirms what ends the wait. So a rollback that has withdrawn ``ready`` can begin immediately.

Ready, by identity and address
    A database has an identity, a UUID in its fence row. A process knows only an address: host,
    port and name, or a secret's ARN. For example, one database with five applied migrations is
    reached by a secret and through a tunnel::

        identity 3f2a...   ready: manifests 1, 2, 3, 4, 5     the prefixes of its history
            address secret     3 confirmed     a cold start with manifest 5 checks first
            address tunnel     5 confirmed     a cold start with manifest 5 serves

    The item stores for each identity which manifests its history satisfies, and for each address
    how many of them a check *through this address* has confirmed. What is confirmed counts for no
    other address, because identity and address do not prove each other:

    - Two addresses may point to one database.
    - An address may point to a different database tomorrow.
    - A restored copy has the identity of its origin, until its next holder gives it a new one.

    A process checks under the lease and the fence. One that may not migrate (mode ``require``)
    makes an inspection instead: under the lease, without the fence, and only if it may show
    something new. `readiness` has the rules as pure functions.

After a failure
    ``store_failure`` stores the digest, the cause and ``retry_at``. Until then every process with
    this digest raises the same error without connecting. The pause doubles with each failure, from
    10 s to ten minutes. Another digest has its own pause, and a failure that no migration is to
    blame for (a password, a grant) applies to its address only. A failure for lack of time does
    not stop a process that has a tenth more time. ``store_completion`` deletes the failures that no
    longer matter.

Clocks
    - Elapsed time is monotonic and local; only times that are stored are wall-clock times.
    - The wall clock is corrected by the ``Date`` of DynamoDB's responses if the two differ by more
      than 2 s (`dynamodb_call.ServerClock`).
    - A lease counts as expired one second after its end, and also when a process has observed it
      unchanged for its whole length (`decision.LeaseExpiryTracker`), whatever the clocks show.
    - A wrong clock can end a lease too early, which the fence makes harmless.

Calls
    `fast_client` makes the two requests without boto3, which takes a fifth of a second to import,
    and leaves everything unusual to boto3 (`boto3_item`). `dynamodb_call` has what both share.
"""
