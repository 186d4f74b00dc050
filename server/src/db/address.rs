use scitq_shared::secret::SecretUrl;

use super::DbError;

/// Which database an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A PostgreSQL server; the address as libpq knows it.
    Postgres(String),
    /// A file of SQLite.
    Sqlite(String),
}

/// Reads an address: `postgres://…`, `postgresql://…` or `sqlite:PATH`.
pub(super) fn parse(url: &SecretUrl) -> Result<Address, DbError> {
    let invalid = |reason: &str| DbError::Invalid {
        address: url.masked(),
        reason: reason.to_owned(),
    };
    let text = url.expose();
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Ok(Address::Postgres(with_limits(text)));
    }
    let Some(path) = text.strip_prefix("sqlite:") else {
        return Err(invalid(
            "expected postgres://USER:PASSWORD@HOST/DATABASE or sqlite:PATH",
        ));
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains('\0') {
        return Err(invalid("expected a path behind sqlite:"));
    }
    if path == ":memory:" {
        return Err(invalid(
            "a database in memory would be a different one for each connection: give a path",
        ));
    }
    // SQLite would read such a path as a URI.
    let path = if path.starts_with("file:") {
        format!("./{path}")
    } else {
        path.to_owned()
    };
    Ok(Address::Sqlite(path))
}

/// How long a PostgreSQL server may be out of reach before its connections count as lost, unless the address says
/// otherwise: without a limit, a half-open connection would hold its call for ever. In seconds.
const LIMITS: &[(&str, u32)] = &[
    ("connect_timeout", 10),
    ("keepalives_idle", 20),
    ("keepalives_interval", 5),
    ("keepalives_retries", 4),
    ("tcp_user_timeout", 30),
];

/// Adds the limits that an address does not set itself.
fn with_limits(address: &str) -> String {
    // The driver reads everything before the first `@` as user and password, which may hold a question mark.
    let behind_user = address.split_once('@').map_or(address, |(_, rest)| rest);
    let query = behind_user.split_once('?').map(|(_, query)| query);
    let is_set = |name: &str| {
        query.is_some_and(|query| {
            query
                .split('&')
                .any(|pair| pair.split('=').next() == Some(name))
        })
    };
    let limits: Vec<String> = LIMITS
        .iter()
        .filter(|(name, _)| !is_set(name))
        .map(|(name, seconds)| format!("{name}={seconds}"))
        .collect();
    let joint = match query {
        None => "?",
        Some("") => "",
        Some(_) => "&",
    };
    format!("{address}{joint}{}", limits.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let sqlite = |path: &str| Some(Address::Sqlite(path.to_owned()));
        let postgres = |text: &str| Some(Address::Postgres(text.to_owned()));
        let limits = "connect_timeout=10&keepalives_idle=20&keepalives_interval=5&keepalives_retries=4&tcp_user_timeout=30";
        let (before, behind) = limits.split_once("&keepalives_retries=4").unwrap();
        let table = [
            (
                "postgres://u:p@h/d",
                postgres(&format!("postgres://u:p@h/d?{limits}")),
            ),
            (
                "postgresql://h/d",
                postgres(&format!("postgresql://h/d?{limits}")),
            ),
            (
                "postgres://u:a?b@h/d?keepalives_retries=9",
                postgres(&format!(
                    "postgres://u:a?b@h/d?keepalives_retries=9&{before}{behind}"
                )),
            ),
            ("sqlite:data/a.db", sqlite("data/a.db")),
            ("sqlite:///var/lib/a.db", sqlite("/var/lib/a.db")),
            ("sqlite:/var/lib/a.db", sqlite("/var/lib/a.db")),
            ("sqlite:file:a?mode=memory", sqlite("./file:a?mode=memory")),
            ("sqlite:", None),
            ("sqlite::memory:", None),
            ("mysql://h/d", None),
            ("host=a password=s3cret", None),
        ];
        for (text, expected) in table {
            let outcome = parse(&SecretUrl::new(text));
            if let Err(error) = &outcome {
                assert!(!error.to_string().contains("s3cret"), "{error}");
            }
            assert_eq!(outcome.ok(), expected, "{text}");
        }
    }
}
