DROP TABLE restoration;
