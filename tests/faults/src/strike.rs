//! Faults as they are done to a system.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::sleep;

use crate::case::Fault;
use crate::schedule::Strike;
use crate::system::System;

/// How long a full disk stays full at least: long enough for tasks to meet it.
const DISK_STAYS_FULL: Duration = Duration::from_millis(1500);

/// A fault that has struck and is over.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Struck {
    pub(crate) fault: &'static str,
    /// What was hit.
    pub(crate) target: String,
    pub(crate) began_at: DateTime<Utc>,
    pub(crate) ended_at: DateTime<Utc>,
}

/// Does it, from its begin to its end. The system is whole again afterwards, though it may not have noticed yet.
pub(crate) async fn strike(system: &mut System<'_>, strike: &Strike) -> anyhow::Result<Struck> {
    let target = target(system, strike)?;
    match strike.fault {
        Fault::WorkerStop | Fault::NetworkSilent => {
            system.connected(&format!("scitq-worker {target}")).await?;
        }
        Fault::ServerStop => system.connected("scitq-server").await?,
        _ => {}
    }
    let began_at = Utc::now();
    let struck = do_it(system, strike, &target).await;
    struck.with_context(|| format!("{} of {target}", strike.fault.name()))?;
    Ok(Struck {
        fault: strike.fault.name(),
        target,
        began_at,
        ended_at: Utc::now(),
    })
}

fn target(system: &System<'_>, strike: &Strike) -> anyhow::Result<String> {
    match strike.fault {
        Fault::WorkerKill
        | Fault::WorkerStop
        | Fault::NetworkCut
        | Fault::NetworkSilent
        | Fault::WorkerDestroyed => system.some_worker(strike.victim),
        // The one with the small disk.
        Fault::DiskFull => Ok("w1".to_owned()),
        Fault::ServerKill | Fault::ServerStop | Fault::LeaderKill | Fault::LeaderStop => {
            Ok(system.server_name(system.leader()?))
        }
        Fault::BrokerKill | Fault::BrokerWipe => Ok("broker".to_owned()),
        Fault::DatabaseKill => Ok("database".to_owned()),
    }
}

async fn do_it(system: &mut System<'_>, strike: &Strike, target: &str) -> anyhow::Result<()> {
    match strike.fault {
        Fault::WorkerKill => {
            system.kill_worker(target)?;
            system.start_worker(target)
        }
        Fault::ServerKill => {
            let leader = system.leader()?;
            system.kill_server(leader)?;
            system.start_server(leader)
        }
        Fault::BrokerKill => {
            let broker = &system.services.broker;
            broker.kill().await;
            sleep(strike.hold).await;
            broker.restart().await;
            Ok(())
        }
        Fault::BrokerWipe => {
            let broker = &system.services.broker;
            broker.kill().await;
            broker.wipe().await;
            broker.restart().await;
            Ok(())
        }
        Fault::DatabaseKill => {
            let database = &system.services.database;
            database.kill().await;
            sleep(strike.hold).await;
            database.restart().await;
            Ok(())
        }
        Fault::WorkerStop => {
            system.signal_worker(target, Signal::STOP)?;
            system.given_up(&format!("scitq-worker {target}")).await?;
            sleep(strike.hold).await;
            system.signal_worker(target, Signal::CONT)
        }
        Fault::ServerStop => {
            let leader = system.leader()?;
            system.signal_server(leader, Signal::STOP)?;
            if system.servers() == 1 {
                system.given_up("scitq-server").await?;
            } else {
                system.another_leads(leader).await?;
            }
            sleep(strike.hold).await;
            system.signal_server(leader, Signal::CONT)
        }
        Fault::NetworkCut => {
            let line = system.line(target)?;
            line.cut().await;
            sleep(strike.hold).await;
            line.heal().await;
            Ok(())
        }
        Fault::NetworkSilent => {
            let line = system.line(target)?;
            line.freeze();
            system.given_up(&format!("scitq-worker {target}")).await?;
            sleep(strike.hold).await;
            line.heal().await;
            Ok(())
        }
        Fault::WorkerDestroyed => {
            system.destroy_worker(target).await?;
            sleep(strike.hold).await;
            system
                .ctl(&["worker", "lost", target, "--force", "--yes"])
                .await?;
            system.add_worker().await.map(drop)
        }
        Fault::DiskFull => {
            let ballast = system.state_directory(target).join("ballast");
            let filled = tokio::task::spawn_blocking({
                let ballast = ballast.clone();
                move || fill(&ballast)
            });
            filled.await??;
            sleep(DISK_STAYS_FULL + strike.hold).await;
            std::fs::remove_file(&ballast)?;
            // What whoever made room would do.
            system.api.resume(target).await
        }
        Fault::LeaderKill => {
            let leader = system.leader()?;
            system.kill_server(leader)?;
            system.another_leads(leader).await?;
            system.start_server(leader)
        }
        Fault::LeaderStop => {
            let leader = system.leader()?;
            // With its locks held in the database, if possible.
            system.stop_in_transaction(leader).await?;
            system.another_leads(leader).await?;
            sleep(strike.hold).await;
            system.signal_server(leader, Signal::CONT)
        }
    }
}

/// Writes until the file system is full.
fn fill(ballast: &Path) -> anyhow::Result<()> {
    let mut file = File::create(ballast)?;
    let mut piece = vec![0; 256 * 1024];
    while !piece.is_empty() {
        match file.write_all(&piece) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                // Smaller pieces find the last corners.
                piece.truncate(piece.len() / 2);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
