-- There are no foreign keys: every row of requirement, execution and output_chunk would cost a look-up. Submission
-- checks the required tasks itself, executions are inserted from their task's row, and output may arrive before the
-- execution that it belongs to.

-- Which server leads (D12). One row.
CREATE TABLE leadership (
    id integer PRIMARY KEY CHECK (id = 1),
    epoch bigint NOT NULL,
    leader text,
    since timestamp
);
INSERT INTO leadership (id, epoch) VALUES (1, 0);

CREATE TABLE batch (
    name text NOT NULL PRIMARY KEY,
    created_at timestamp NOT NULL
);

-- How many tasks of a batch are in a status. Written last in every transaction, in sorted order (D11).
CREATE TABLE batch_counter (
    batch text NOT NULL,
    status text NOT NULL,
    tasks bigint NOT NULL,
    PRIMARY KEY (batch, status)
) WITHOUT ROWID;

CREATE TABLE task (
    id integer PRIMARY KEY AUTOINCREMENT,
    batch text NOT NULL,
    name text,
    status text NOT NULL,
    uploading boolean NOT NULL DEFAULT false,
    missing integer NOT NULL DEFAULT 0,
    dispatch_id text,
    dispatch_epoch bigint,
    dispatched_at timestamp,
    attempt_id text,
    execution_id bigint,
    command text NOT NULL,
    shell text,
    container text,
    container_options text,
    input text NOT NULL DEFAULT '[]',
    output text,
    resource text NOT NULL DEFAULT '[]',
    retry integer NOT NULL,
    retries_left integer NOT NULL,
    download_timeout bigint,
    run_timeout bigint,
    use_cache boolean NOT NULL,
    priority integer NOT NULL,
    weight integer NOT NULL,
    idempotency_key text,
    labels text NOT NULL DEFAULT '{}',
    uid bigint,
    gid bigint,
    revision bigint NOT NULL,
    row_version bigint NOT NULL DEFAULT 0,
    created_at timestamp NOT NULL,
    modified_at timestamp NOT NULL
);
CREATE UNIQUE INDEX task_idempotency_key ON task (idempotency_key) WHERE idempotency_key IS NOT NULL;
-- The order of dispatch.
CREATE INDEX task_pending ON task (batch, priority DESC) WHERE status = 'pending';
-- Lists by id with filters: the id is the last part of every index by itself.
CREATE INDEX task_batch ON task (batch);
CREATE INDEX task_batch_status ON task (batch, status);
CREATE INDEX task_status ON task (status);
CREATE INDEX task_name ON task (name) WHERE name IS NOT NULL;

-- The labels of tasks, to find tasks by; the task's row has them for reading.
CREATE TABLE task_label (
    key text NOT NULL,
    value text NOT NULL,
    task_id bigint NOT NULL,
    PRIMARY KEY (key, value, task_id)
) WITHOUT ROWID;

-- An edge: task_id waits for required_task_id. `met` once, however often the required task succeeds.
CREATE TABLE requirement (
    task_id bigint NOT NULL,
    required_task_id bigint NOT NULL,
    met boolean NOT NULL,
    PRIMARY KEY (task_id, required_task_id)
) WITHOUT ROWID;
CREATE INDEX requirement_required ON requirement (required_task_id) WHERE NOT met;

CREATE TABLE execution (
    id integer PRIMARY KEY AUTOINCREMENT,
    attempt_id text NOT NULL UNIQUE,
    task_id bigint NOT NULL,
    batch text NOT NULL,
    worker text NOT NULL,
    incarnation text NOT NULL,
    dispatch_id text NOT NULL,
    epoch bigint NOT NULL,
    revision bigint NOT NULL,
    announced_sequence bigint NOT NULL,
    state text NOT NULL,
    -- What really ran; null when the task's definition had another revision by the time the attempt became known.
    command text,
    shell text,
    container text,
    container_options text,
    input text NOT NULL DEFAULT '[]',
    output text,
    resource text NOT NULL DEFAULT '[]',
    queued_at timestamp NOT NULL,
    accepted_at timestamp NOT NULL,
    started_at timestamp,
    ended_at timestamp,
    exit_code integer,
    signal integer,
    failure_reason text,
    failure_detail text,
    user_cpu_ms bigint,
    system_cpu_ms bigint,
    peak_memory_bytes bigint,
    memory_source text,
    -- Null until the end of the stream is known.
    stdout_length bigint,
    stdout_cut_from bigint,
    stdout_cut_to bigint,
    stderr_length bigint,
    stderr_cut_from bigint,
    stderr_cut_to bigint,
    complete boolean NOT NULL DEFAULT false,
    created_at timestamp NOT NULL
);
CREATE INDEX execution_task ON execution (task_id);
CREATE INDEX execution_batch ON execution (batch);
CREATE INDEX execution_worker ON execution (worker);
CREATE INDEX execution_state ON execution (state);
CREATE INDEX execution_live ON execution (worker, incarnation) WHERE state IN ('accepted', 'running', 'uploading');

-- How much of a stream is stored. The row is locked by whoever stores a piece of it.
CREATE TABLE output_stream (
    attempt_id text NOT NULL,
    stream text NOT NULL,
    stored_bytes bigint NOT NULL,
    end_offset bigint NOT NULL,
    PRIMARY KEY (attempt_id, stream)
) WITHOUT ROWID;

-- The pieces of a stream; they never overlap.
CREATE TABLE output_chunk (
    attempt_id text NOT NULL,
    stream text NOT NULL,
    start_offset bigint NOT NULL,
    length integer NOT NULL,
    encoding text NOT NULL,
    data blob NOT NULL,
    PRIMARY KEY (attempt_id, stream, start_offset)
);

CREATE TABLE worker (
    id integer PRIMARY KEY AUTOINCREMENT,
    name text NOT NULL UNIQUE,
    hostname text NOT NULL,
    batch text NOT NULL,
    status text NOT NULL,
    concurrency integer NOT NULL,
    prefetch integer NOT NULL,
    paused boolean NOT NULL,
    desired_version bigint NOT NULL,
    incarnation text NOT NULL,
    program_version text NOT NULL,
    cores integer NOT NULL,
    memory_bytes bigint NOT NULL,
    permanent boolean NOT NULL DEFAULT false,
    flavor text,
    provider text,
    region text,
    last_contact_at timestamp NOT NULL,
    created_at timestamp NOT NULL
);
