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
        return Ok(Address::Postgres(text.to_owned()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let sqlite = |path: &str| Some(Address::Sqlite(path.to_owned()));
        let table = [
            (
                "postgres://u:p@h/d",
                Some(Address::Postgres("postgres://u:p@h/d".to_owned())),
            ),
            (
                "postgresql://h/d",
                Some(Address::Postgres("postgresql://h/d".to_owned())),
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
