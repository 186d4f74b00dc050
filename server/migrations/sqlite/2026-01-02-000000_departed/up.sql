-- True for a worker that said goodbye and kept nothing: it need not be asked what it holds.
ALTER TABLE worker ADD COLUMN departed boolean NOT NULL DEFAULT false;
