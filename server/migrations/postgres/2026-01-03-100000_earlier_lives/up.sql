-- What ran before there were leases, under an earlier life of its worker's directory, has one, too.
INSERT INTO former_incarnation (worker, incarnation, last_contact_at)
SELECT DISTINCT e.worker, e.incarnation, w.last_contact_at FROM execution AS e JOIN worker AS w ON w.name = e.worker
WHERE e.state IN ('accepted', 'running', 'uploading') AND e.incarnation <> w.incarnation
ON CONFLICT (worker, incarnation) DO NOTHING;

ALTER TABLE worker
    -- False when its agent cannot start itself anew, as its last hello said.
    ADD COLUMN can_restart boolean NOT NULL DEFAULT true;
