ALTER TABLE worker DROP COLUMN can_restart;
