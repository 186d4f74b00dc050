//! The REST interface, as any HTTP client sees it.

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response};
use serde_json::Value;

use crate::DEADLINE;

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Rest {
    http: Client,
    base: String,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Rest {
    /// A client of the server on this port.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            http: Client::new(),
            base: format!("http://127.0.0.1:{port}"),
        }
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Gets a path that begins with a slash; `None` when the server cannot be reached.
    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        let url = format!("{}{path}", self.base);
        let response = self.http.get(url).timeout(DEADLINE * 2).send().await.ok()?;
        Answer::read(response).await.ok()
    }

    /// Gets a path.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, Vec::new()).await
    }

    /// Posts JSON.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string().into_bytes();
        self.send(Method::POST, path, Some("application/json"), body)
            .await
    }

    /// Changes something by JSON.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string().into_bytes();
        self.send(Method::PATCH, path, Some("application/json"), body)
            .await
    }

    /// Sends any request.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Answer {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method.clone(), url).body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let response = request.timeout(DEADLINE * 2).send().await;
        let response = response.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let answer = Answer::read(response).await;
        answer.unwrap_or_else(|error| panic!("the answer of {method} {path}: {error:?}"))
    }

    /// Opens an answer that is read piece by piece.
    ///
    /// # Panics
    /// If the server cannot be reached or refuses.
    pub async fn open(&self, path: &str) -> Response {
        let url = format!("{}{path}", self.base);
        let response = self.http.get(url).send().await;
        let response = response.unwrap_or_else(|error| panic!("GET {path}: {error:?}"));
        assert!(
            response.status().is_success(),
            "GET {path}: {}",
            response.status()
        );
        response
    }
}

impl Answer {
    async fn read(response: Response) -> Result<Self, reqwest::Error> {
        Ok(Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await?.to_vec(),
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The body as JSON, of an answer with this status.
    ///
    /// # Panics
    /// If the status is another.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The problem that a refusal of this status describes.
    ///
    /// # Panics
    /// If the status is another, or the answer is no RFC 9457 problem.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        let problem = self.expect(status);
        let content_type = self.headers.get("content-type");
        assert_eq!(
            content_type.map(reqwest::header::HeaderValue::as_bytes),
            Some(&b"application/problem+json"[..])
        );
        assert_eq!(problem["status"], status, "{problem}");
        for part in ["type", "title", "detail"] {
            assert!(problem[part].is_string(), "{part}: {problem}");
        }
        problem
    }
}
