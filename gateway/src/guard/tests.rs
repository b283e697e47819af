use hyper::Request;

use super::*;

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 5));

fn guard(key: Option<&str>) -> Guard {
    let toml = key.map(|key| std::collections::HashMap::from([("HEARTH_API_KEY", key)]));
    let config = crate::config::Config::load(&|name| match name {
        "HEARTH_HOME" => Some("/nowhere".into()),
        _ => toml.as_ref().and_then(|map| map.get(name)).map(Into::into),
    })
    .unwrap();
    Guard::new(
        &["Box.Local".to_owned()],
        &["https://app.example".to_owned()],
        config.api_key.as_ref(),
        &[],
    )
}

fn check_on(
    guard: &Guard,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<(), Turned> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    guard.check(&parts, LOCAL).map(|_caller| ())
}

fn get(headers: &[(&str, &str)]) -> Result<(), Turned> {
    check_on(&guard(None), "GET", "/api/ps", headers)
}

#[test]
fn our_own_names_are_let_in_on_any_port() {
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:11434",
        "127.0.0.9",
        "[::1]:5",
        "192.168.1.5:80",
        "box.local",
    ] {
        assert_eq!(get(&[("host", host)]), Ok(()), "{host}");
    }
}

#[test]
fn every_other_name_is_turned_away() {
    for host in ["evil.com", "localhost.evil.com", "192.168.1.6", "localhost.", "0.0.0.0"] {
        assert_eq!(get(&[("host", host)]), Err(FOREIGN_HOST), "{host}");
    }
    for host in ["", "localhost/v1?x", "a b", "user@localhost", ":80"] {
        assert_eq!(get(&[("host", host)]), Err(BAD_HOST), "{host}");
    }
    assert_eq!(get(&[]), Err(BAD_HOST));
    assert_eq!(get(&[("host", "localhost"), ("host", "localhost")]), Err(BAD_HOST));
}

#[test]
fn a_target_that_names_another_server_is_turned_away() {
    let absolute = |target| check_on(&guard(None), "GET", target, &[("host", "localhost")]);
    assert_eq!(absolute("http://evil.com/api/ps"), Err(FOREIGN_HOST));
    assert_eq!(absolute("http://localhost/api/ps"), Ok(()));
}

#[test]
fn pages_are_let_in_only_from_listed_origins() {
    let with = |origin| get(&[("host", "localhost"), ("origin", origin)]);
    assert_eq!(with("https://app.example"), Ok(()));
    for origin in ["null", "https://app.example:1", "http://localhost", "https://evil.com"] {
        assert_eq!(with(origin), Err(FOREIGN_ORIGIN), "{origin}");
    }
    let cross = ("sec-fetch-site", "cross-site");
    assert_eq!(get(&[("host", "localhost"), cross]), Err(FOREIGN_ORIGIN));
    let listed = ("origin", "https://app.example");
    assert_eq!(get(&[("host", "localhost"), listed, cross]), Ok(()));
}

#[test]
fn a_preflight_needs_a_listed_origin_and_no_key() {
    let guard = guard(Some("s3cret"));
    let ask = |method: &str, origin: &str| {
        let wants = ("access-control-request-method", "POST");
        let headers = [("host", "localhost"), ("origin", origin), wants];
        check_on(&guard, method, "/v1/chat/completions", &headers)
    };
    assert_eq!(ask("OPTIONS", "https://app.example"), Ok(()));
    assert_eq!(ask("OPTIONS", "https://evil.com"), Err(FOREIGN_ORIGIN));
    assert_eq!(ask("GET", "https://app.example"), Err(NO_KEY));
    let plain = [("host", "localhost"), ("origin", "https://app.example")];
    assert_eq!(check_on(&guard, "OPTIONS", "/", &plain), Err(NO_KEY));
}

#[test]
fn with_a_key_every_address_is_let_in_but_no_other_name() {
    let guard = guard(Some("s3cret"));
    let with = |host| {
        let headers = [("host", host), ("x-api-key", "s3cret")];
        check_on(&guard, "GET", "/api/ps", &headers)
    };
    assert_eq!(with("203.0.113.7:8080"), Ok(()));
    assert_eq!(with("[2001:db8::1]"), Ok(()));
    assert_eq!(with("evil.com"), Err(FOREIGN_HOST));
}

#[test]
fn every_path_but_the_probes_needs_the_key() {
    let guard = guard(Some("s3cret"));
    let with = |path: &str, header: (&str, &str)| {
        check_on(&guard, "GET", path, &[("host", "localhost"), header])
    };
    let nothing = ("x-nothing", "");
    for path in ["/", "/v1/models", "/api/ps", "/metrics", "/nowhere", "//healthz"] {
        assert_eq!(with(path, nothing), Err(NO_KEY), "{path}");
        assert_eq!(with(path, ("authorization", "Bearer s3cret")), Ok(()), "{path}");
        assert_eq!(with(path, ("authorization", "bearer s3cret")), Ok(()), "{path}");
        assert_eq!(with(path, ("x-api-key", "s3cret")), Ok(()), "{path}");
        for wrong in ["Bearer s3cre", "Bearer s3cret ", "Basic s3cret", "s3cret", "Bearer"] {
            assert_eq!(with(path, ("authorization", wrong)), Err(NO_KEY), "{path} {wrong}");
        }
    }
    for path in PUBLIC_PATHS {
        assert_eq!(with(path, nothing), Ok(()), "{path}");
    }
}

#[test]
fn a_post_has_to_be_json_and_uncompressed() {
    let post = |path: &str, header: (&str, &str)| {
        check_on(&guard(None), "POST", path, &[("host", "localhost"), header])
    };
    let chat = "/v1/chat/completions";
    assert_eq!(post(chat, ("content-type", "application/json")), Ok(()));
    assert_eq!(post(chat, ("content-type", "Application/JSON; charset=utf-8")), Ok(()));
    for wrong in ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"] {
        assert_eq!(post(chat, ("content-type", wrong)), Err(NOT_JSON), "{wrong}");
    }
    assert_eq!(post(chat, ("content-length", "2")), Err(NOT_JSON));
    assert_eq!(post(chat, ("transfer-encoding", "chunked")), Err(NOT_JSON));
    // Without a body there is nothing to be read wrong.
    assert_eq!(post(chat, ("content-length", "0")), Ok(()));
    assert_eq!(post(chat, ("content-encoding", "gzip")), Err(ENCODED_BODY));
}

#[test]
fn plain_curl_works_on_ollamas_paths_but_a_pages_simple_post_does_not() {
    let form = ("content-type", "application/x-www-form-urlencoded");
    let post = |headers: &[(&str, &str)]| check_on(&guard(None), "POST", "/api/generate", headers);
    assert_eq!(post(&[("host", "localhost"), form]), Ok(()));
    assert_eq!(post(&[("host", "localhost"), form, ("origin", "null")]), Err(FOREIGN_ORIGIN));
    assert_eq!(post(&[("host", "localhost"), ("content-type", "text/plain")]), Err(NOT_JSON));
}
