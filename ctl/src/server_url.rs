//! The server's address, and the addresses of what it serves.

use reqwest::Url;
use scitq_shared::secret::mask_address;

use crate::failure::Failure;

/// Where a server is looked for unless told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:5000";

/// Address of the server's REST interface.
#[derive(Clone, Debug)]
pub struct ServerUrl {
    base: Url,
}

impl ServerUrl {
    /// Reads an address as a user gives it: `http://host:5000`, or `host:5000` for short; a path in front of the
    /// interface (a reverse proxy) is kept.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        let wrong = |why: &str| {
            Failure::usage(format!("the server's address {} {why}", mask_address(text)))
                .remedy("give it as http://HOST:PORT with --server or SCITQ_SERVER")
        };
        let full = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let base = Url::parse(&full).map_err(|error| wrong(&format!("cannot be used: {error}")))?;
        match base.scheme() {
            "http" if base.has_host() => Ok(Self { base }),
            "https" => Err(wrong(
                "begins with https, which this program does not speak",
            )),
            other => Err(wrong(&format!("begins with {other}: instead of http:"))),
        }
    }

    /// Address of something under `/api/v1`. Each part is escaped, so that names may hold any character.
    pub fn api(&self, parts: &[&str], query: &[(&str, String)]) -> Result<Url, Failure> {
        if let Some(dots) = parts.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(
                Failure::usage(format!("{dots:?} cannot be asked for by its name"))
                    .remedy("find it in the list instead"),
            );
        }
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(parts);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

/// Shown without a password.
impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(mask_address(self.base.as_str()).trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(server: &str, parts: &[&str], query: &[(&str, String)]) -> String {
        ServerUrl::parse(server)
            .unwrap()
            .api(parts, query)
            .unwrap()
            .to_string()
    }

    #[test]
    fn addresses_are_completed_and_names_escaped() {
        assert_eq!(
            api("localhost:5000", &["tasks"], &[]),
            "http://localhost:5000/api/v1/tasks"
        );
        assert_eq!(
            api("http://h/scitq/", &["tasks", "1"], &[]),
            "http://h/scitq/api/v1/tasks/1"
        );
        let query = [("label", "a=b&c".to_owned())];
        assert_eq!(
            api("h", &["batches", "a b?#%/é"], &query),
            "http://h/api/v1/batches/a%20b%3F%23%25%2F%C3%A9?label=a%3Db%26c"
        );
    }

    #[test]
    fn unusable_addresses_say_what_to_give() {
        for (address, part) in [
            ("https://h", "https"),
            ("ftp://h", "ftp:"),
            ("http://", "empty host"),
            ("http://h:99999", "invalid port"),
            ("", "empty host"),
        ] {
            let failure = ServerUrl::parse(address).unwrap_err();
            assert!(failure.message.contains(part), "{address}: {failure}");
            assert!(failure.remedy.unwrap().contains("http://HOST:PORT"));
        }
        let server = ServerUrl::parse("http://h").unwrap();
        assert!(server.api(&["batches", ".."], &[]).is_err());
    }

    #[test]
    fn passwords_are_never_shown() {
        let server = ServerUrl::parse("http://me:s3cret@h:5000/").unwrap();
        assert_eq!(server.to_string(), "http://me:****@h:5000");
        let failure = ServerUrl::parse("https://me:s3cret@h").unwrap_err();
        assert!(!failure.message.contains("s3cret"), "{failure}");
    }
}
