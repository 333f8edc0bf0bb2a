-- What the store is: keys, and the newest time it has seen.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- The log of accepted messages, one row per group commit (or per 256 KiB of it). The newest row is
-- never pruned: it carries on the numbering and the totals.
CREATE TABLE segment (
    first_seq       INTEGER PRIMARY KEY,
    count           INTEGER NOT NULL,
    -- How many data and event messages were ever accepted, up to the end of this row.
    data_total      INTEGER NOT NULL,
    event_total     INTEGER NOT NULL,
    -- When the newest of its messages came, milliseconds since 1970.
    newest_received INTEGER NOT NULL,
    records         BLOB NOT NULL
) STRICT;

-- Message ids that must not be accepted again. One row of replay_run per run; its pages and filters
-- have the ids (run << 24 | number).
CREATE TABLE replay_state (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    sealed_through    INTEGER NOT NULL,
    forgotten_through INTEGER NOT NULL
) STRICT;
INSERT INTO replay_state VALUES (1, 0, 0);

CREATE TABLE replay_run (
    id               INTEGER PRIMARY KEY,
    -- 0: being built, 1: in use, 2: being dropped
    state            INTEGER NOT NULL,
    level            INTEGER NOT NULL,
    entries          INTEGER NOT NULL,
    pages            INTEGER NOT NULL,
    newest_timestamp INTEGER NOT NULL,
    first_received   INTEGER NOT NULL,
    last_received    INTEGER NOT NULL
) STRICT;

CREATE TABLE replay_page (
    id      INTEGER PRIMARY KEY,
    entries BLOB NOT NULL
) STRICT;

CREATE TABLE replay_filter (
    id    INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

-- One row per upstream: what of the log it has settled, and its balance.
CREATE TABLE upstream (
    key             INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT NOT NULL UNIQUE,
    configured      INTEGER NOT NULL,
    -- Everything at or below is settled; `settled` holds the ranges beyond it that are as well.
    position        INTEGER NOT NULL,
    settled         BLOB NOT NULL,
    -- Which kinds were wanted from which position on.
    eras            BLOB NOT NULL,
    -- Accepted until the last change of what is wanted, and the log's totals at that change.
    accepted_before INTEGER NOT NULL,
    data_base       INTEGER NOT NULL,
    event_base      INTEGER NOT NULL,
    delivered       INTEGER NOT NULL,
    dead            INTEGER NOT NULL,
    expired         INTEGER NOT NULL,
    skipped         INTEGER NOT NULL,
    parked          INTEGER NOT NULL
) STRICT;

-- Messages copied out of the log so that a device in trouble does not hold it back. Still owed.
CREATE TABLE parked (
    id          INTEGER PRIMARY KEY,
    upstream    INTEGER NOT NULL REFERENCES upstream (key),
    device      INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    message_id  BLOB NOT NULL,
    timestamp   INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    payload     BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX parked_by_device ON parked (upstream, device, seq);
CREATE INDEX parked_by_seq ON parked (upstream, seq);

-- Messages an upstream refused for good, until someone retries or drops them.
CREATE TABLE dead (
    id          INTEGER PRIMARY KEY,
    upstream    INTEGER NOT NULL REFERENCES upstream (key),
    device      INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    message_id  BLOB NOT NULL,
    timestamp   INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    payload     BLOB NOT NULL,
    status      INTEGER,
    reason      TEXT NOT NULL,
    died_at     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX dead_by_seq ON dead (upstream, seq);
