//! An address to listen on, or to call: `host`, `host:port`, `:port`, with or without `http://`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Ollama's port, so that its clients find us.
const DEFAULT_PORT: u16 = 11_434;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address; write 127.0.0.1:11434, localhost, :11434 or [::1]:11434")]
pub struct ListenError(String);

impl Default for Listen {
    fn default() -> Self {
        Self { host: Ipv4Addr::LOCALHOST.to_string(), port: DEFAULT_PORT }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let error = || ListenError(text.to_owned());
        let rest = text.trim();
        let rest = rest.strip_prefix("http://").unwrap_or(rest);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if let Ok(address) = rest.parse::<Ipv6Addr>() {
            return Ok(Self { host: address.to_string(), port: DEFAULT_PORT });
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_not_a_port| error())?)
            }
            Some(_) | None => (rest, DEFAULT_PORT),
        };
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or_else(error)?;
                inner.parse::<Ipv6Addr>().map_err(|_not_an_address| error())?.to_string()
            }
            None => host.to_owned(),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        match host.as_str() {
            // Everything, as in Ollama's OLLAMA_HOST=":11434".
            "" if rest.starts_with(':') => {
                Ok(Self { host: Ipv4Addr::UNSPECIFIED.to_string(), port })
            }
            "" => Err(error()),
            name if name.chars().all(plain) => Ok(Self { host, port }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Listen {
    /// Where a client on this machine reaches who listens here.
    #[must_use]
    pub fn as_client_target(&self) -> Self {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) if address.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            Ok(IpAddr::V6(address)) if address.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
            Ok(_) | Err(_) => self.host.clone(),
        };
        Self { host, port: self.port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_people_write_is_read() {
        for (text, expected) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("localhost", "localhost:11434"),
            (":8080", "0.0.0.0:8080"),
            ("0.0.0.0", "0.0.0.0:11434"),
            ("http://box.local:80/", "box.local:80"),
            ("[::1]:9", "[::1]:9"),
            ("[::1]", "[::1]:11434"),
            ("::1", "[::1]:11434"),
        ] {
            assert_eq!(text.parse::<Listen>().map(|l| l.to_string()), Ok(expected.to_owned()));
        }
        for text in ["", "host:port", "host:99999", "a b", "[::1", "https://x"] {
            assert_eq!(text.parse::<Listen>(), Err(ListenError(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_client_calls_the_loopback_where_the_server_listens_everywhere() {
        let all: Listen = ":8080".parse().unwrap();
        assert_eq!(all.as_client_target().to_string(), "127.0.0.1:8080");
        let all: Listen = "[::]:8080".parse().unwrap();
        assert_eq!(all.as_client_target().to_string(), "[::1]:8080");
    }
}
