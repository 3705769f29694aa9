"""PostgreSQL decides what is applied: the fence, the history, and the migrations themselves.

The lease in DynamoDB keeps most instances from trying. It can neither keep a holder that was frozen
for an hour from continuing nor exclude that the lease was granted twice. For that there is the
fence: a fencing token that PostgreSQL compares in every transaction of a holder. The package keeps
four invariants:

1. The effects of a migration commit at most once, and together with its history row.
2. A holder whose lease was taken over commits nothing more.
3. No statement outlives the deadline.
4. A holder that dies blocks others for about one lease: until it expires, plus 1 s for differing
   clocks and the wait for the next read.

The fence row
    The table ``fence`` has one row:

    - ``token``, the highest that was accepted
    - ``owner``, the process that set it
    - ``environment``, recorded by the first holder whose work succeeded
    - ``identity``, a UUID of the database
    - ``system``, the cluster and the database for which the identity was last confirmed

    A copy by dump, template or restore has another system, and gets an identity of its own.

Takeover (`fence.FencedConnection.connect_and_take_fence`; invariants 2 and 4)
    A new holder offers its token, which must be higher than the stored one::

        connect; create missing tables (an advisory lock admits one creator at a time)
        read the fence row      another layout or environment -> ConfigurationError
                                token not higher              -> StaleFencingToken
        UPDATE the fence row    locked for more than 0.5 s    -> terminate the backend inside the
                                                                 locking transaction, and try again
        terminate sessions with the advisory lock: older holders between intent row and statement
        COMMIT; take the advisory lock

    `FencedConnection._check_fence_row` compares the tokens, and `Queries.take_fence` is the UPDATE,
    which compares them again.

    A backend is terminated only for what it does at that moment: it has locked the fence row, or it
    has the advisory lock. A remembered process id or an application name is no reason, because a
    pooler passes both on. A process that may not terminate sessions
    (``terminate_holders=False``, a dry run) raises `LeaseHeld` instead.

Transactional migrations (`transactional`; invariants 1 and 3)
    A migration is one transaction, sent as one message: BEGIN, timeouts from the remaining
    time, lock the fence row and compare token and owner (`Queries._require_fence`), the script,
    reset the session, the history row, COMMIT. The history row can be written only in the very
    transaction that locked the fence (`Queries._state_if_fence_locked`), so a script that ends
    its transaction gets none. The library's own writes compare in `FencedConnection.begin`. After
    a lost connection the holder reconnects under the same token
    (`FencedConnection.reconnect`), checks that the history it knows is unchanged, and reads there
    whether the commit succeeded.

A stale holder
    It can be in one of three places. Between two transactions, the next comparison finds
    another token. Inside a transaction, its backend was terminated before the token changed,
    because the successor needs the row lock. Between intent row and statement, its session was
    terminated, because it has the advisory lock. In each case it gets `LeaseLost`, and nothing more
    of it is committed::

                        open_session                    transaction: token and owner match
        [not connected] -------------> [holder] <----------------------------------------+
               |                        |  ^  |                                          |
               | token not higher       |  |  +------------------------------------------+
               v                        |  |
        StaleFencingToken               |  | reconnect: same token, same history
                                        |  |
                                        |  +-----------> [connection lost]
                                        |                        |
                                        | token superseded       | token superseded
                                        v                        v
                                      LeaseLost: nothing more is committed

Non-transactional migrations (`non_transactional`, `catalog_state`; invariant 1)
    ``CREATE INDEX CONCURRENTLY`` and the like cannot share a transaction with their history
    row. So an intent row is committed first. After a crash, `FencedSession.resolve_in_doubt`
    reads from the catalog whether the statement took effect::

                     intent             took effect             intent to roll back
        [no row] -------------> started ------------> applied -----------------------> rolling_back
            ^                      |                     ^                              |     |
            |      no effect       |                     |          no effect           |     |
            +----------------------+                     +------------------------------+     |
            |                                took effect                                      |
            +---------------------------------------------------------------------------------+

    If the catalog does not show it, the row stays in doubt, and `RepairRequired` names the
    command with which the user decides. These migrations need a direct connection: behind a
    pooler a successor could not terminate the session. `FencedConnection.run_non_transactional`
    compares token and owner right before the statement.

Modules
    `ports` defines what the engine uses; `database` and `session` implement it. `fence` takes
    the fence over and compares it, on a `holder_connection`, which retries and limits every
    message. `connection`, `driver`, `tls` and `credentials` connect. `queries`,
    `dry_run_queries`, `catalog_queries` and `sql_fragments` hold the SQL. `dry_run` runs
    migrations in a transaction that is never committed; `other_tools` reads the history tables of
    other tools.
"""
