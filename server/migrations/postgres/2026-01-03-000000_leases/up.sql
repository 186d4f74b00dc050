ALTER TABLE batch
    -- True while nothing of it is dispatched.
    ADD COLUMN paused boolean NOT NULL DEFAULT false,
    ADD COLUMN pause_reason text;

ALTER TABLE worker
    -- How long it may be silent before its attempts are lost (D7); null: as the server's settings say.
    ADD COLUMN lost_after_seconds bigint,
    -- Since when it is lost; null again when it is heard of.
    ADD COLUMN lost_at timestamp,
    -- How many times its agent was started on its directory, as its last hello said.
    ADD COLUMN boots bigint NOT NULL DEFAULT 0,
    -- The start that is to be followed by another one; null when nothing is asked for.
    ADD COLUMN restart_requested_boots bigint,
    -- Why it is paused, where the server did it (D13).
    ADD COLUMN pause_reason text,
    -- The failure that paused it last: reason, beginning of its words, batch, and when.
    ADD COLUMN fault_reason text COLLATE "C",
    ADD COLUMN fault_detail text COLLATE "C",
    ADD COLUMN fault_batch text COLLATE "C",
    ADD COLUMN fault_at timestamp,
    -- Only executions with a higher id count as failures in a row.
    ADD COLUMN faults_counted_after bigint NOT NULL DEFAULT 0;

-- Earlier lives of workers' directories, each with its own lease: what they ran may still run. The row goes with the
-- lease.
CREATE TABLE former_incarnation (
    worker text COLLATE "C" NOT NULL,
    incarnation text COLLATE "C" NOT NULL,
    last_contact_at timestamp NOT NULL,
    PRIMARY KEY (worker, incarnation)
);
