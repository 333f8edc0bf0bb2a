-- Devices, commands for them, API keys and the audit record.

-- One row per device that ever existed. A removed device keeps its row, so that what it is owed
-- and what it sent can still be named, and its number is never given to another.
CREATE TABLE device (
    key             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    enabled         INTEGER NOT NULL,   -- as declared, or as it was added
    declared        INTEGER NOT NULL,   -- 1: from the configuration; 0: added at run time
    blocked_reason  TEXT,               -- set by an administrator; outlives a reload
    removed_at      INTEGER,            -- milliseconds since 1970, as every time here
    signing         TEXT NOT NULL,      -- any, v2, none
    secret          BLOB,               -- sealed
    password        TEXT,               -- argon2id, PHC string form
    password_source BLOB,               -- keyed fingerprint of the password file it was made from
    per_second      INTEGER,            -- null: the gateway's own limit
    topics          TEXT NOT NULL,      -- JSON: publish, subscribe, telemetry, command_topic
    groups          TEXT NOT NULL,      -- JSON: array of names
    last_version    INTEGER,            -- envelope version of the last accepted message
    last_seen       INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT;

-- One row: proves that the master key at hand is the one that sealed this database.
CREATE TABLE seal_check (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    sealed  BLOB NOT NULL
) STRICT;

CREATE TABLE command (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order commands are sent in
    id              BLOB NOT NULL UNIQUE,               -- message id, 16 bytes
    device          INTEGER NOT NULL,
    state           TEXT NOT NULL,      -- queued, sent, delivered, done, failed, expired
    payload         BLOB NOT NULL,      -- JSON as the backend wrote it
    queued_by       TEXT NOT NULL,      -- actor, such as key:1f2e3d4c
    idempotency_key TEXT,
    request_digest  BLOB NOT NULL,      -- SHA-256 over what was asked for
    attempts        INTEGER NOT NULL DEFAULT 0,
    detail          TEXT,               -- JSON: what the device said about the outcome
    queued_at       INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    sent_at         INTEGER,
    delivered_at    INTEGER,
    finished_at     INTEGER
) STRICT;

CREATE UNIQUE INDEX command_idempotency ON command (queued_by, device, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX command_device ON command (device, seq);
CREATE INDEX command_pending ON command (device, seq) WHERE state IN ('queued', 'sent');
CREATE INDEX command_expiry ON command (expires_at) WHERE state IN ('queued', 'sent');
CREATE INDEX command_settled ON command (queued_at) WHERE state NOT IN ('queued', 'sent');

CREATE TABLE api_key (
    id           TEXT PRIMARY KEY NOT NULL,
    name         TEXT NOT NULL,
    digest       BLOB NOT NULL,     -- SHA-256 of the random part of the token
    scopes       TEXT NOT NULL,     -- JSON: array of scopes
    devices      TEXT,              -- JSON: restriction to some devices; null: all
    created_at   INTEGER NOT NULL,
    created_by   TEXT NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT;

CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    peer   TEXT,
    action TEXT NOT NULL,
    target TEXT,
    result TEXT NOT NULL,
    detail TEXT
) STRICT;
