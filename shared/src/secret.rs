//! Values that must never be shown.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Shown in place of a secret.
pub const MASK: &str = "****";

/// An address that may hold a password, such as `postgres://user:password@host/database`. Shown with the password
/// masked, by `Debug`, `Display` and serialisation alike.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps an address.
    pub fn new(address: impl Into<String>) -> Self {
        Self(address.into())
    }

    /// The address with its password, for connecting only.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The address with the password, and every value of the query, masked.
    pub fn masked(&self) -> String {
        mask_address(&self.0)
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.masked())
    }
}

/// Masks the password of an address and the values of its query (which may hold one, as `?password=` of libpq). An
/// address that cannot be parsed is masked from the first `:` behind the scheme to the last `@`.
pub fn mask_address(address: &str) -> String {
    if let Ok(mut url) = url::Url::parse(address) {
        if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
            return MASK.to_owned();
        }
        if url.query().is_some() {
            let keys: Vec<String> = url.query_pairs().map(|(key, _)| key.into_owned()).collect();
            let masked: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{key}={MASK}"))
                .collect();
            url.set_query(Some(&masked.join("&")));
        }
        return url.to_string();
    }
    match (address.find("://"), address.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}{MASK}{}", &address[..scheme + 3], &address[at..])
        }
        (None, Some(at)) => format!("{MASK}{}", &address[at..]),
        // The keyword form of PostgreSQL, `host=… password=…`.
        _ if address.contains('=') => MASK.to_owned(),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_everywhere() {
        let table = [
            (
                "amqp://user:s3cret@host:5672/%2f",
                "amqp://user:****@host:5672/%2f",
            ),
            ("postgres://host/db", "postgres://host/db"),
            (
                "postgres://user@host/db?password=s3cret",
                "postgres://user@host/db?password=****",
            ),
            ("host=a password=s3cret", "****"),
            ("amqp://us er:s3cret@ho st", "amqp://****@ho st"),
            ("sqlite:data/scitq.db", "sqlite:data/scitq.db"),
        ];
        for (address, masked) in table {
            let url = SecretUrl::new(address);
            assert_eq!(url.to_string(), masked);
            assert!(
                !format!("{url:?} {}", serde_json::to_string(&url).unwrap()).contains("s3cret")
            );
        }
    }
}
