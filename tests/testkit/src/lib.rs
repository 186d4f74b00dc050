//! Private RabbitMQ and PostgreSQL instances for tests, on free ports in temporary directories.
