//! Handing packed tasks to the server.

use std::collections::VecDeque;

use reqwest::Method;
use scitq_shared::api::CreatedTask;

use super::keys::Keys;
use super::requests::{Request, Requests};
use crate::client::{Call, Client};
use crate::failure::{Failure, Kind};
use crate::screen::Screen;
use crate::text::count;

/// Hands in all tasks and answers them in the order of submission. A request that is too long for the server is
/// halved. When one fails, those before it stay: the failure says so, and how to go on without creating them twice.
pub async fn submit(
    client: &Client,
    screen: &Screen,
    mut requests: Requests,
    keys: &Keys,
) -> Result<Vec<CreatedTask>, Failure> {
    let mut waiting: VecDeque<Request> = requests.take().into();
    if waiting.len() > 1 {
        let tasks = count(requests.tasks(), "task");
        screen.note(&format!(
            "{tasks} go in {} requests, each all or nothing",
            waiting.len()
        ));
    }
    let mut created = Vec::with_capacity(requests.tasks());
    let mut refused_bytes = usize::MAX;
    while let Some(request) = waiting.pop_front() {
        let halves = if request.body.len() >= refused_bytes {
            request.split()
        } else {
            None
        };
        if let Some((one, other)) = halves {
            waiting.push_front(other);
            waiting.push_front(one);
            continue;
        }
        match send(client, &request).await {
            Ok(tasks) if tasks.len() == request.count => created.extend(tasks),
            Ok(tasks) => {
                let message = format!(
                    "{} answered {} for {} tasks",
                    client.server(),
                    tasks.len(),
                    request.count
                );
                return Err(Failure::server_fault(message));
            }
            Err(failure) if failure.status() == Some(413) && request.count > 1 => {
                if refused_bytes == usize::MAX {
                    let tasks = count(requests.tasks(), "task");
                    let server = client.server();
                    screen.note(&format!(
                        "{server} takes shorter requests: {tasks} go in several, each all or nothing"
                    ));
                }
                refused_bytes = refused_bytes.min(request.body.len());
                waiting.push_front(request);
            }
            Err(failure) => return Err(explain(failure, &request, &requests, created.len(), keys)),
        }
    }
    if !keys.by_user() {
        // A key that nobody else knows: what was there already came from a request whose answer was lost.
        for task in &mut created {
            task.created = true;
        }
    }
    Ok(created)
}

async fn send(client: &Client, request: &Request) -> Result<Vec<CreatedTask>, Failure> {
    let parts = ["tasks"];
    let body = Some(("application/x-ndjson", request.body.clone()));
    client
        .call(&Call {
            method: Method::POST,
            body,
            ..Call::get(&parts, &[])
        })
        .await
}

/// Adds to a failure which line it is about, and how to repeat the submission.
fn explain(
    mut failure: Failure,
    request: &Request,
    requests: &Requests,
    created: usize,
    keys: &Keys,
) -> Failure {
    let index = failure.problem().and_then(|problem| problem.index);
    let index = index
        .or((request.count == 1).then_some(0))
        .filter(|index| *index < request.count);
    if let (Some(index), Kind::Rejected(_)) = (index, &failure.kind) {
        failure.message = format!(
            "{}{}",
            requests.place(request.first + index),
            failure.message
        );
    }
    let uncertain = matches!(
        failure.kind,
        Kind::Unreachable { reached: true } | Kind::ServerFault
    );
    if created > 0 || uncertain {
        let state = match (created, uncertain) {
            (0, _) => "perhaps the tasks were created all the same".to_owned(),
            (created, false) => format!("{} before it were created", count(created, "task")),
            (created, true) => format!(
                "{} before it were created, perhaps more",
                count(created, "task")
            ),
        };
        let again = format!(
            "{state}: the same launch with --idempotency-key {} goes on without creating any twice",
            keys.base()
        );
        let remedy = failure
            .remedy
            .take()
            .map_or_else(|| again.clone(), |first| format!("{first}\n  {again}"));
        failure.remedy = Some(remedy);
    }
    failure
}
