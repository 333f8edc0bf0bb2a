-- Firmware releases, who is to have them, and how far each device is.

CREATE TABLE release (
    key              INTEGER PRIMARY KEY AUTOINCREMENT,
    product          TEXT NOT NULL,
    chip             TEXT NOT NULL,
    version          TEXT NOT NULL,
    sequence         INTEGER NOT NULL,
    security_version INTEGER NOT NULL,
    size             INTEGER NOT NULL,
    sha256           TEXT NOT NULL,      -- of the image, 64 hex digits: its name in the release folder
    expires          INTEGER NOT NULL,   -- seconds since 1970, as the manifest has it
    manifest         BLOB NOT NULL,      -- the signed manifest as it was given
    -- published; withdrawn: never to be installed again; retired: its image was deleted for room
    state            TEXT NOT NULL,
    reason           TEXT,               -- why it was withdrawn
    published_at     INTEGER NOT NULL,   -- milliseconds since 1970, as every time but `expires`
    published_by     TEXT NOT NULL,
    UNIQUE (product, chip, version)
) STRICT;

CREATE TABLE rollout (
    release         INTEGER PRIMARY KEY REFERENCES release (key),
    state           TEXT NOT NULL,       -- running, paused
    reason          TEXT,                -- why it is paused
    devices         TEXT NOT NULL,       -- JSON: array of device ids
    groups          TEXT NOT NULL,       -- JSON: array of names
    percent         INTEGER NOT NULL,    -- of all devices, by hash
    failure_percent INTEGER NOT NULL,    -- it pauses at so many failures among the outcomes
    failures_least  INTEGER NOT NULL,    -- but not before there are this many
    step            INTEGER NOT NULL,    -- how often it was widened or changed
    changed_at      INTEGER NOT NULL,
    changed_by      TEXT NOT NULL
) STRICT;

-- What a device said it runs: by its last question for an update, or its last boot event.
CREATE TABLE firmware (
    device           INTEGER PRIMARY KEY,
    product          TEXT NOT NULL,
    chip             TEXT NOT NULL,
    version          TEXT NOT NULL,
    security_version INTEGER NOT NULL,
    at               INTEGER NOT NULL
) STRICT;

-- How far a device is with a release, by its own signed events.
CREATE TABLE update_state (
    release  INTEGER NOT NULL REFERENCES release (key),
    device   INTEGER NOT NULL,
    -- offered, downloading, installed, confirmed, failed, rolled_back
    state    TEXT NOT NULL,
    reason   TEXT,
    failures INTEGER NOT NULL,           -- how often it failed so far
    at       INTEGER NOT NULL,
    PRIMARY KEY (release, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX update_of_device ON update_state (device);
