//! Message brokers of scitq: RabbitMQ and an in-process one behind one interface.
