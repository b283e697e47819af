//! Host names and origins as people write them → as browsers and clients send them. Pure.

use super::{ConfigError, Listen};

/// A name by which clients call the server: without its port and brackets, in lower case.
pub(super) fn host(text: &str) -> Result<String, ConfigError> {
    let wrong = || {
        let message = format!("`{text}` is no host name; write box.local or 192.168.1.5");
        ConfigError::value("allowed_hosts", message)
    };
    let Listen { host, .. } = text.parse().map_err(|_no_address| wrong())?;
    // A port alone is an address to listen on, but no name.
    let port_alone = text.trim_start().starts_with(':') && !host.contains(':');
    if port_alone { Err(wrong()) } else { Ok(host.to_ascii_lowercase()) }
}

/// A page's origin: no slash at its end, no port that its scheme implies, in lower case.
pub(super) fn origin(text: &str) -> Result<String, ConfigError> {
    let wrong = || {
        let message = format!("`{text}` is no origin; write https://app.example, without a path");
        ConfigError::value("allowed_origins", message)
    };
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('/').unwrap_or(&lower);
    let (scheme, authority) = lower.split_once("://").ok_or_else(wrong)?;
    let in_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let in_authority = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '@' | '*');
    let usable = !scheme.is_empty()
        && scheme.chars().all(in_scheme)
        && !authority.is_empty()
        && authority.chars().all(in_authority);
    if !usable {
        return Err(wrong());
    }
    let implied = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let authority = authority.strip_suffix(implied).unwrap_or(authority);
    Ok(format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_loses_its_port_and_brackets() {
        for (written, sent) in [
            ("Box.Local", "box.local"),
            ("box.local:8080", "box.local"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(host(written).unwrap(), sent);
        }
        for wrong in ["", "*", ":8080", "https://box.local", "box.local/path"] {
            assert_eq!(
                host(wrong).unwrap_err().to_string(),
                format!(
                    "allowed_hosts (or HEARTH_ALLOWED_HOSTS): `{wrong}` is no host name; write \
                     box.local or 192.168.1.5"
                )
            );
        }
    }

    #[test]
    fn an_origin_reads_as_browsers_send_it() {
        for (written, sent) in [
            ("https://App.Example/", "https://app.example"),
            ("https://app.example:443", "https://app.example"),
            ("http://app.example:443", "http://app.example:443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("chrome-extension://abc", "chrome-extension://abc"),
        ] {
            assert_eq!(origin(written).unwrap(), sent);
        }
        for wrong in ["", "*", "null", "app.example", "https://*.example", "https://a/b", "://a"] {
            let error = origin(wrong).unwrap_err().to_string();
            assert!(error.starts_with("allowed_origins (or HEARTH_ALLOWED_ORIGINS): "), "{error}");
        }
    }
}
