//! Reading the address of a RabbitMQ broker, and showing it without its password.

use std::fmt;

use lapin::uri::AMQPUri;
use url::Url;

use crate::error::BrokerError;

/// How long a silent peer is taken to be alive, in seconds; the broker may ask for less.
const HEARTBEAT_SECONDS: u16 = 10;
/// The largest frame. lapin keeps two buffers of 32 frames per connection, so this bounds them to 1 MiB each.
const FRAME_BYTES: u32 = 32 * 1024;

/// Where a RabbitMQ broker is and who logs in. Shown as host:port/vhost; the password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address(AMQPUri);

impl Address {
    /// Reads `amqp://user:password@host:port/vhost`.
    pub(crate) fn parse(text: &str) -> Result<Self, BrokerError> {
        let invalid = |reason: String| BrokerError::InvalidAddress {
            address: masked(text),
            reason,
        };
        let url = Url::parse(text).map_err(|error| invalid(error.to_string()))?;
        match url.scheme() {
            "amqp" => {}
            "amqps" => {
                return Err(invalid(
                    "this build has no TLS; use amqp:// in a trusted network".to_owned(),
                ));
            }
            other => return Err(invalid(format!("unknown scheme {other}://"))),
        }
        match url.host_str() {
            None | Some("") => return Err(invalid("it names no host".to_owned())),
            // lapin takes any host that is not a domain name for localhost.
            Some(host) if host.starts_with('[') => {
                return Err(invalid(
                    "numeric IPv6 hosts are not supported; use a host name".to_owned(),
                ));
            }
            Some(_) => {}
        }
        if url.fragment().is_some() {
            return Err(invalid(
                "a # in user, password or virtual host must be written %23".to_owned(),
            ));
        }
        // lapin's errors may repeat the text with the password; ours only say what kind of thing is wrong.
        let mut uri: AMQPUri = text.parse().map_err(|_| {
            invalid("user, password, host or virtual host cannot be decoded".to_owned())
        })?;
        if url.path().is_empty() || url.path() == "/" {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        uri.query.frame_max.get_or_insert(FRAME_BYTES);
        Ok(Self(uri))
    }

    /// The form lapin connects with. Contains the password.
    pub(crate) fn uri(&self) -> &AMQPUri {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.0.authority;
        let vhost = self.0.vhost.strip_prefix('/').unwrap_or(&self.0.vhost);
        write!(formatter, "{}:{}/{vhost}", authority.host, authority.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Address({self})")
    }
}

/// The text with everything that may be a password replaced, however broken the rest is.
fn masked(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let (before, host) = match text.rfind('@') {
        Some(at) if at >= start => text.split_at(at),
        // Without an @ it may be a password that stands where the port is expected.
        _ => (text, ""),
    };
    match before[start..].find(':') {
        Some(colon) => format!("{}:***{host}", &before[..start + colon]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn reads_every_part() {
        let address = parsed("amqp://us%65r:p%40ss@broker.example:5673/v%2Fhost");
        let uri = address.uri();
        assert_eq!(uri.authority.userinfo.username, "user");
        assert_eq!(uri.authority.userinfo.password, "p@ss");
        assert_eq!(uri.vhost, "v/host");
        assert_eq!(address.to_string(), "broker.example:5673/v/host");
        assert_eq!(
            format!("{address:?}"),
            "Address(broker.example:5673/v/host)"
        );
    }

    #[test]
    fn fills_in_defaults() {
        for text in ["amqp://h", "amqp://h/", "amqp://h/%2f"] {
            let address = parsed(text);
            assert_eq!(address.to_string(), "h:5672/", "{text}");
            assert_eq!(address.uri().vhost, "/", "{text}");
        }
    }

    #[test]
    fn understands_numeric_hosts() {
        assert_eq!(
            parsed("amqp://127.0.0.1:99/x").uri().authority.host,
            "127.0.0.1"
        );
    }

    #[test]
    fn refuses_nonsense_without_showing_the_password() {
        let cases = [
            ("http://u:secret@h/", "unknown scheme http://"),
            ("amqps://u:secret@h/", "no TLS"),
            ("amqp://u:secret@h:99999/", "port"),
            ("amqp://u:secret@/x", "host"),
            ("amqp://u:sec#ret@h/x", ""),
            ("u:secret@h", ""),
            ("amqp://u:secret", "port"),
            ("amqp://u:secret@[::1]:99/x", "IPv6"),
            ("amqp://u:secret@h/%ff", "decoded"),
            ("", "relative URL"),
        ];
        for (text, expected) in cases {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(
                !error.contains("secret") && !error.contains("sec#ret"),
                "{text}: {error}"
            );
        }
    }
}
