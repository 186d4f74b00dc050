-- When the database was restored from a backup (D12). What workers and the broker hold may be younger than the backup.
CREATE TABLE restoration (
    id integer PRIMARY KEY AUTOINCREMENT,
    restored_at timestamp NOT NULL,
    -- Null until the workers have been heard: nothing is dispatched before.
    heard_at timestamp,
    -- Dispatches of lower epochs may be unknown.
    epoch bigint NOT NULL,
    -- The last task of the backup, and the last of the ids that are left free for those given after it.
    last_task bigint NOT NULL,
    last_free_task bigint NOT NULL,
    -- The last execution of the backup.
    last_execution bigint NOT NULL
);
