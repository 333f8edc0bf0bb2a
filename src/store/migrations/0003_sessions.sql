-- Sessions that outlive their connection, and what waits for them.

CREATE TABLE session (
    key             INTEGER PRIMARY KEY AUTOINCREMENT,
    -- 'device:<id>' or 'operator:<name>': nobody reaches another identity's session.
    identity        TEXT    NOT NULL,
    client_id       TEXT    NOT NULL,
    -- Seconds the session lives without a connection; 4294967295 is for ever.
    expiry          INTEGER NOT NULL,
    -- Milliseconds since 1970; NULL while connected and for sessions that never expire.
    expires_at      INTEGER,
    connected       INTEGER NOT NULL,
    -- Milliseconds since 1970 of the last connect or disconnect.
    seen_at         INTEGER NOT NULL,
    -- The next message's number; packet identifiers derive from it.
    next_seq        INTEGER NOT NULL DEFAULT 1,
    -- Messages up to here may have reached the peer: they are sent again with DUP.
    sent_through    INTEGER NOT NULL DEFAULT 0,
    queued          INTEGER NOT NULL DEFAULT 0,
    queued_bytes    INTEGER NOT NULL DEFAULT 0,
    max_queued      INTEGER NOT NULL,
    max_bytes       INTEGER NOT NULL,
    -- Messages given up for lack of room since this was last read.
    dropped         INTEGER NOT NULL DEFAULT 0,
    UNIQUE (identity, client_id)
) STRICT;

CREATE INDEX session_expiry ON session (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE subscription (
    session         INTEGER NOT NULL,
    filter          TEXT    NOT NULL,
    -- The options byte of the SUBSCRIBE packet (MQTT 5, section 3.8.3.1), with the granted QoS.
    options         INTEGER NOT NULL,
    identifier      INTEGER,
    PRIMARY KEY (session, filter)
) STRICT, WITHOUT ROWID;

CREATE TABLE outgoing (
    id              INTEGER PRIMARY KEY,
    session         INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    qos             INTEGER NOT NULL,
    -- 1 once the peer said PUBREC: only PUBREL is sent from then on.
    received        INTEGER NOT NULL DEFAULT 0,
    retain          INTEGER NOT NULL,
    topic           TEXT    NOT NULL,
    payload         BLOB    NOT NULL,
    properties      BLOB    NOT NULL,
    expires_at      INTEGER
) STRICT;

CREATE UNIQUE INDEX outgoing_order ON outgoing (session, seq);

-- Packet identifiers of QoS 2 messages that were taken and not yet released.
CREATE TABLE inbound (
    session         INTEGER NOT NULL,
    packet_id       INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE will (
    session         INTEGER PRIMARY KEY,
    identity        TEXT    NOT NULL,
    -- Seconds to wait after the connection ended.
    delay           INTEGER NOT NULL,
    -- Milliseconds since 1970; NULL while connected.
    due_at          INTEGER,
    qos             INTEGER NOT NULL,
    retain          INTEGER NOT NULL,
    topic           TEXT    NOT NULL,
    payload         BLOB    NOT NULL,
    properties      BLOB    NOT NULL
) STRICT;

CREATE TABLE retained (
    topic           TEXT    PRIMARY KEY,
    qos             INTEGER NOT NULL,
    payload         BLOB    NOT NULL,
    properties      BLOB    NOT NULL,
    expires_at      INTEGER
) STRICT;
