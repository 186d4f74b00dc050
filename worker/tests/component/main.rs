//! A real worker, a real (in-process) broker, real processes; the test plays the server.

mod connections;
mod control;
mod delivery;
mod output;
mod processes;
mod rabbitmq;
mod restarts;
mod server;
mod site;
