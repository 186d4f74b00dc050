//! Requests to the server that ride out a short outage.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, header};
use scitq_shared::api::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, Rejection};
use crate::server_url::ServerUrl;

/// How long an answer may take that needs no waiting at the server.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// A body of this many bytes gets another second for its way and its work.
const BODY_BYTES_PER_SECOND: u64 = 256 * 1024;
/// How much of an answer that is no problem description is shown.
const SHOWN_ANSWER_CHARACTERS: usize = 200;

/// Says something to the user while a request is under way.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// A client of the server's REST interface. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: ServerUrl,
    patience: Duration,
    notice: Notice,
}

/// A request: what is asked, and how long the server may deliberately wait before it answers.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Method.
    pub method: Method,
    /// Parts of the path below `/api/v1`.
    pub parts: &'a [&'a str],
    /// Query parameters.
    pub query: &'a [(&'a str, String)],
    /// Content type and body.
    pub body: Option<(&'static str, Bytes)>,
    /// How long the server was asked to wait.
    pub waits: Duration,
}

impl<'a> Call<'a> {
    /// A DELETE.
    pub fn delete(parts: &'a [&'a str]) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(parts, &[])
        }
    }

    /// A GET.
    pub fn get(parts: &'a [&'a str], query: &'a [(&'a str, String)]) -> Self {
        Self {
            method: Method::GET,
            parts,
            query,
            body: None,
            waits: Duration::ZERO,
        }
    }

    /// A request with a JSON body.
    pub fn json<T: Serialize>(
        method: Method,
        parts: &'a [&'a str],
        body: &T,
    ) -> Result<Self, Failure> {
        let json = serde_json::to_vec(body)
            .map_err(|error| Failure::local(format!("cannot write JSON: {error}")))?;
        let body = Some(("application/json", Bytes::from(json)));
        Ok(Self {
            method,
            parts,
            query: &[],
            body,
            waits: Duration::ZERO,
        })
    }

    fn within(&self) -> Duration {
        let length = self.body.as_ref().map_or(0, |(_, body)| body.len() as u64);
        ANSWER_WITHIN + self.waits + Duration::from_secs(length / BODY_BYTES_PER_SECOND)
    }
}

/// Why one attempt brought no answer.
#[derive(Debug)]
enum Trouble {
    /// It may pass: worth another attempt.
    Passing {
        /// What happened, in words that follow the server's address.
        why: String,
        /// False when the request certainly never reached a server.
        reached: bool,
    },
    /// It will not.
    Final(Failure),
}

impl Client {
    /// A client that rides out outages of up to `patience`, and says so through `notice`.
    pub fn new(server: ServerUrl, patience: Duration, notice: Notice) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("scitq-ctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            // a follower may wait for hours: these find out that the other machine is gone
            .tcp_keepalive(Duration::from_secs(15))
            .tcp_keepalive_interval(Duration::from_secs(15))
            .tcp_keepalive_retries(3_u32)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::local(format!("cannot set up HTTP: {}", cause(&error))))?;
        Ok(Self {
            http,
            server,
            patience,
            notice,
        })
    }

    /// The same client with another way to say things, for a command that draws a progress bar.
    #[must_use]
    pub fn with_notice(&self, notice: Notice) -> Self {
        Self {
            notice,
            ..self.clone()
        }
    }

    /// The server's address, for texts.
    pub fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// How long an outage is ridden out.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Gets a JSON value.
    pub async fn get<T: DeserializeOwned>(
        &self,
        parts: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        self.call(&Call::get(parts, query)).await
    }

    /// Sends a request and reads the whole answer as JSON. A request whose answer was lost on the way is sent again,
    /// so only those may be given whose repetition changes nothing.
    pub async fn call<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Failure> {
        let body = self
            .patiently(|| async {
                let answer = self.attempt(call, Some(call.within())).await?;
                answer.bytes().await.map_err(|error| trouble(&error))
            })
            .await?;
        serde_json::from_slice(&body).map_err(|error| {
            Failure::server_fault(format!(
                "the answer of {} cannot be understood ({error})",
                self.server
            ))
            .remedy("check that it is a scitq server of the same version: scitq-ctl --version")
        })
    }

    /// Opens a stream of bytes. Only its beginning is ridden out; whoever reads it opens it anew where it broke.
    pub async fn open(
        &self,
        parts: &[&str],
        query: &[(&str, String)],
    ) -> Result<Response, Failure> {
        let call = Call::get(parts, query);
        self.patiently(|| self.attempt(&call, None)).await
    }

    /// One attempt: an answer of success, or the reason why there is none.
    async fn attempt(
        &self,
        call: &Call<'_>,
        within: Option<Duration>,
    ) -> Result<Response, Trouble> {
        let url = self
            .server
            .api(call.parts, call.query)
            .map_err(Trouble::Final)?;
        let mut request = self.http.request(call.method.clone(), url);
        if let Some(within) = within {
            request = request.timeout(within);
        }
        if let Some((kind, body)) = &call.body {
            request = request
                .header(header::CONTENT_TYPE, *kind)
                .body(body.clone());
        }
        let answer = request.send().await.map_err(|error| trouble(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        // A broken refusal is still a refusal: what can be read of it is shown.
        let body = answer.bytes().await.unwrap_or_default();
        Err(self.refusal(status, &body))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> Trouble {
        let problem: Option<Box<Problem>> = serde_json::from_slice(body).ok();
        let said = match &problem {
            Some(problem) => said(problem),
            None => said_otherwise(body),
        };
        let passing = matches!(status.as_u16(), 429 | 502..=504);
        if passing {
            let why = if said.is_empty() {
                String::new()
            } else {
                format!(": {said}")
            };
            let why = format!("answers {}{why}", status.as_u16());
            return Trouble::Passing { why, reached: true };
        }
        if status.is_client_error() && problem.is_some() {
            let rejection = Rejection {
                status: status.as_u16(),
                problem,
            };
            return Trouble::Final(Failure::rejected(rejection, said));
        }
        let why = if said.is_empty() {
            "without saying why".to_owned()
        } else {
            format!("with: {said}")
        };
        let message = format!("{} answered {} {why}", self.server, status.as_u16());
        if status.is_server_error() {
            return Trouble::Final(
                Failure::server_fault(message).remedy("the server's log says more"),
            );
        }
        let failure = if status.as_u16() == 413 {
            // also from a proxy: the sender then makes smaller requests
            Failure::rejected(
                Rejection {
                    status: 413,
                    problem: None,
                },
                message,
            )
        } else {
            Failure::server_fault(message)
                .remedy("check with --server that a scitq server is there")
        };
        Trouble::Final(failure)
    }

    /// Tries again while trouble may pass, for as long as the user's patience, counted from the first trouble.
    async fn patiently<T, F>(&self, attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let troubled_since: Cell<Option<Instant>> = Cell::new(None);
        let told = Cell::new(false);
        let ever_reached = Cell::new(false);
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(3))
            .with_jitter()
            .without_max_times();
        let result = attempt
            .retry(delays)
            .when(|trouble| match trouble {
                Trouble::Passing { reached, .. } => {
                    ever_reached.set(ever_reached.get() || *reached);
                    true
                }
                Trouble::Final(_) => false,
            })
            .adjust(|_, delay| {
                let since = troubled_since.get().unwrap_or_else(Instant::now);
                troubled_since.set(Some(since));
                let left = self.patience.saturating_sub(since.elapsed());
                // the last attempt is made when the patience ends, not before
                delay
                    .filter(|_| !left.is_zero())
                    .map(|delay| delay.min(left))
            })
            .notify(|trouble, _| {
                if let (Trouble::Passing { why, .. }, false) = (trouble, told.replace(true)) {
                    let seconds = self.patience.as_secs();
                    (self.notice)(&format!("{} {why}; trying for {seconds} s …", self.server));
                }
            })
            .await;
        if told.get() && !matches!(result, Err(Trouble::Passing { .. })) {
            (self.notice)(&format!("{} answers again", self.server));
        }
        result.map_err(|trouble| match trouble {
            Trouble::Final(failure) => failure,
            Trouble::Passing { why, .. } => self.gave_up(&why, told.get(), ever_reached.get()),
        })
    }

    /// The failure when patience has ended; `reached` when a request may have reached a server.
    pub(crate) fn gave_up(&self, why: &str, tried: bool, reached: bool) -> Failure {
        let seconds = self.patience.as_secs();
        let tried = if tried {
            format!(" (tried for {seconds} s)")
        } else {
            String::new()
        };
        let remedy = if reached {
            "the server's log says more; --timeout SECONDS waits longer for it"
        } else {
            "start a server with `scitq-ctl up`, or say where it is with --server URL or SCITQ_SERVER"
        };
        Failure::unreachable(format!("{} {why}{tried}", self.server), reached).remedy(remedy)
    }
}

/// A fault of the way is always worth another attempt: all our requests may be repeated.
fn trouble(error: &reqwest::Error) -> Trouble {
    if error.is_builder() {
        return Trouble::Final(Failure::local(format!(
            "cannot make the request: {}",
            cause(error)
        )));
    }
    Trouble::Passing {
        why: cause(error),
        reached: !error.is_connect(),
    }
}

/// A fault of the way in words that follow the server's address, without that address.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut root: &dyn std::error::Error = error;
    while let Some(deeper) = root.source() {
        root = deeper;
    }
    let what = if error.is_timeout() {
        return "does not answer in time".to_owned();
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "broke off"
    };
    let why = root.to_string();
    // the outermost error names the address, which may hold a password
    if std::ptr::eq(
        std::ptr::from_ref(root).cast::<()>(),
        std::ptr::from_ref(error).cast(),
    ) {
        return what.to_owned();
    }
    format!("{what}: {}", why.trim_end_matches('.'))
}

fn said(problem: &Problem) -> String {
    let place = match &problem.field {
        // the server's texts begin with the field's name where a rule is broken
        Some(field) if !problem.detail.contains(field.as_str()) => format!("{field}: "),
        _ => String::new(),
    };
    let detail = if problem.detail.is_empty() {
        &problem.title
    } else {
        &problem.detail
    };
    let text = format!("{place}{detail}");
    crate::text::one_line(text.trim_end_matches('.'))
}

fn said_otherwise(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let shown: String = text.trim().chars().take(SHOWN_ANSWER_CHARACTERS).collect();
    crate::text::one_line(&shown)
}
