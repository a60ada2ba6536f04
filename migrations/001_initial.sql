-- Phase 1: who works where (workspaces, devices), what they did (sessions) and what was seen of it (events).
-- Everything is IF NOT EXISTS, so the file can also be run by hand on a database that has part of it.

-- A repository, known by its remote whatever directory it is checked out to.
CREATE TABLE IF NOT EXISTS workspaces (
    id             TEXT PRIMARY KEY,      -- ULID
    canonical_id   TEXT NOT NULL UNIQUE,  -- the git remote's URL, normalised
    display_name   TEXT NOT NULL,
    default_branch TEXT,
    metadata       JSONB NOT NULL DEFAULT '{}',
    first_seen_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at     TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- A machine, somebody's own or a rented one.
CREATE TABLE IF NOT EXISTS devices (
    id            TEXT PRIMARY KEY,  -- ULID, made by the client
    name          TEXT NOT NULL,
    type          TEXT NOT NULL CHECK (type IN ('local', 'remote')),
    hostname      TEXT,
    os            TEXT,
    arch          TEXT,
    status        TEXT NOT NULL DEFAULT 'online'
                  CHECK (status IN ('online', 'offline', 'provisioning', 'terminated')),
    metadata      JSONB NOT NULL DEFAULT '{}',
    first_seen_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_seen_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Where a workspace is checked out on a device.
CREATE TABLE IF NOT EXISTS workspace_devices (
    workspace_id        TEXT NOT NULL REFERENCES workspaces (id),
    device_id           TEXT NOT NULL REFERENCES devices (id),
    local_path          TEXT NOT NULL,
    hooks_installed     BOOLEAN NOT NULL DEFAULT false,
    git_hooks_installed BOOLEAN NOT NULL DEFAULT false,
    last_active_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, device_id)
);

-- One conversation with an assistant; what is only known after it was parsed may be NULL.
CREATE TABLE IF NOT EXISTS sessions (
    id                 TEXT PRIMARY KEY,
    workspace_id       TEXT NOT NULL REFERENCES workspaces (id),
    device_id          TEXT NOT NULL REFERENCES devices (id),
    remote_env_id      TEXT,
    -- FK to remote_envs added in Phase 5 migration

    lifecycle          TEXT NOT NULL DEFAULT 'detected'
                       CHECK (lifecycle IN ('detected', 'capturing', 'ended', 'parsed', 'summarized',
                                            'archived', 'failed')),
    started_at         TIMESTAMPTZ NOT NULL,
    ended_at           TIMESTAMPTZ,
    end_reason         TEXT,

    initial_prompt     TEXT,
    git_branch         TEXT,
    model              TEXT,
    source             TEXT,

    transcript_s3_key  TEXT,
    parse_status       TEXT DEFAULT 'pending'
                       CHECK (parse_status IN ('pending', 'parsing', 'completed', 'failed')),
    parse_error        TEXT,
    summary            TEXT,

    total_messages     INTEGER,
    user_messages      INTEGER,
    assistant_messages INTEGER,
    tool_use_count     INTEGER,
    thinking_blocks    INTEGER,
    subagent_count     INTEGER,
    tokens_in          BIGINT,
    tokens_out         BIGINT,
    cache_read_tokens  BIGINT,
    cache_write_tokens BIGINT,
    cost_estimate_usd  NUMERIC(10, 6),
    duration_ms        INTEGER,

    tags               TEXT[] NOT NULL DEFAULT '{}',
    metadata           JSONB NOT NULL DEFAULT '{}',
    created_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at         TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS idx_sessions_workspace ON sessions (workspace_id, started_at DESC);
CREATE INDEX IF NOT EXISTS idx_sessions_device ON sessions (device_id, started_at DESC);
CREATE INDEX IF NOT EXISTS idx_sessions_lifecycle ON sessions (lifecycle);
CREATE INDEX IF NOT EXISTS idx_sessions_tags ON sessions USING GIN (tags);

-- What happened, in the order it was seen; a git event outside a session has no session.
CREATE TABLE IF NOT EXISTS events (
    id           TEXT PRIMARY KEY,  -- ULID, made by the client
    type         TEXT NOT NULL,
    timestamp    TIMESTAMPTZ NOT NULL,
    device_id    TEXT NOT NULL REFERENCES devices (id),
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    session_id   TEXT REFERENCES sessions (id),
    data         JSONB NOT NULL,
    blob_refs    JSONB NOT NULL DEFAULT '[]',
    ingested_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS idx_events_workspace_time ON events (workspace_id, timestamp DESC);
CREATE INDEX IF NOT EXISTS idx_events_session ON events (session_id, timestamp ASC) WHERE session_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_events_type ON events (type, timestamp DESC);
CREATE INDEX IF NOT EXISTS idx_events_device ON events (device_id, timestamp DESC);
