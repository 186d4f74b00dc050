ALTER TABLE worker DROP COLUMN departed;
