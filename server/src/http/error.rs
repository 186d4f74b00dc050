use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use scitq_shared::api::Problem;
use scitq_shared::submit::FieldError;

use crate::db::{DbError, SubmitError};

/// What a request is answered when it cannot be done: one kind for each audience. Causes inside the server are logged
/// and never shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Something that the server needs is away; trying again later helps.
    #[error("{0}")]
    Unavailable(String),
    /// What was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done as things stand.
    #[error("{0}")]
    Conflict(String),
    /// The request cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// A field or parameter breaks a rule.
    #[error("{error}")]
    Field {
        /// The field and the rule.
        error: FieldError,
        /// Which task of a bulk submission, from 0.
        index: Option<usize>,
    },
    /// The body is longer than allowed.
    #[error(
        "the body is longer than the {limit} bytes allowed (setting server.max_body_bytes); send it in parts"
    )]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The body is of a type that is not read here.
    #[error("{0}")]
    MediaType(String),
    /// The resource has other methods.
    #[error("{0}")]
    Method(String),
    /// A fault of the server; the cause is in its log.
    #[error("the server failed to answer; its log says why")]
    Internal,
}

impl ApiError {
    /// A field or parameter that breaks a rule.
    pub fn field(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Field {
            error: FieldError::new(field, rule),
            index: None,
        }
    }

    /// Logs a cause, and shows nothing of it.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::Internal
    }

    fn kind(&self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::Unavailable(_) => (
                "unavailable",
                "Not available now",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::NotFound(_) => ("not-found", "Not found", StatusCode::NOT_FOUND),
            Self::Conflict(_) => (
                "conflict",
                "Not possible as things stand",
                StatusCode::CONFLICT,
            ),
            Self::Unreadable(_) => (
                "unreadable",
                "The request cannot be read",
                StatusCode::BAD_REQUEST,
            ),
            Self::Field { .. } => (
                "invalid-field",
                "A field breaks a rule",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Self::TooLong { .. } => (
                "too-long",
                "The body is too long",
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            Self::MediaType(_) => (
                "media-type",
                "The body's type is not read here",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ),
            Self::Method(_) => (
                "method",
                "No such method here",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            Self::Internal => (
                "internal",
                "The server failed",
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
        }
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        if error.is_transient() {
            tracing::warn!(%error, "a request could not use the database");
            return Self::Unavailable("the database cannot be reached now; try again".to_owned());
        }
        match error {
            // The text says what the database does not take (a NUL byte in a name, say), and nothing of its inside.
            DbError::Refused { .. } => {
                tracing::warn!(%error, "the database refused a request's data");
                Self::Unreadable("the database does not take these values".to_owned())
            }
            other => Self::internal(&other),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::UnknownRequirement { index, task } => Self::Field {
                error: FieldError::new(
                    "required_task_ids",
                    format!("names task {task}, which does not exist"),
                ),
                index: Some(index),
            },
            SubmitError::Db(error) => error.into(),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.kind().2
    }

    fn error_response(&self) -> HttpResponse {
        let (kind, title, status) = self.kind();
        let (field, index) = match self {
            Self::Field { error, index } => (Some(error.field.clone()), *index),
            _ => (None, None),
        };
        let problem = Problem {
            kind: format!("/problems/{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.to_string(),
            field,
            index,
        };
        let mut response = HttpResponse::build(status);
        if matches!(self, Self::Unavailable(_)) {
            response.insert_header((RETRY_AFTER, "1"));
        }
        response
            .content_type("application/problem+json")
            .body(serde_json::to_vec(&problem).unwrap_or_default())
    }
}

/// Answers requests to paths that do not exist.
pub(super) async fn no_such_route(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::NotFound(format!(
        "there is nothing at {}; /api/v1/openapi.json lists what there is",
        request.path()
    )))
}

/// Answers requests with methods that a resource does not have.
pub(super) async fn method_not_allowed(request: HttpRequest) -> HttpResponse {
    let error = ApiError::Method(format!(
        "{} cannot be done with {}",
        request.method(),
        request.path()
    ));
    let mut response = error.error_response();
    response.headers_mut().insert(
        ALLOW,
        actix_web::http::header::HeaderValue::from_static("GET, POST, PATCH"),
    );
    response
}
