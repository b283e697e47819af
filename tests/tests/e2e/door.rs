//! What is refused before anything is done, over raw sockets.

use hearth_tests::http::{self, raw};
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::home;

fn status_line(answer: &str) -> &str {
    answer.lines().next().unwrap_or("")
}

#[tokio::test]
async fn strangers_are_turned_away_before_anything_is_read() {
    let gateway = home().start_fake(&[], &[]).await;
    for (request, status) in [
        ("GET /api/ps HTTP/1.1\r\nHost: evil.com\r\n\r\n", "HTTP/1.1 403 Forbidden"),
        ("GET /api/ps HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            "HTTP/1.1 400 Bad Request",
        ),
        ("GET / HTTP/1.1\r\nHost: localhost/v1?x\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n",
            "HTTP/1.1 403 Forbidden",
        ),
        (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 415 Unsupported Media Type",
        ),
        ("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (
            "DELETE /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "HTTP/1.1 405 Method Not Allowed",
        ),
    ] {
        let closing = request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        let answer = raw(gateway.address, closing.as_bytes()).await;
        assert_eq!(status_line(&answer), status, "{request}");
        assert!(!answer.to_ascii_lowercase().contains("access-control-"), "{answer}");
    }
    let refused = "hearth_guard_refusals_total{reason=\"host_not_allowed\"}";
    assert_eq!(gateway.metric(refused).await, Some(1.0));
    assert!(!gateway.stage.has_another().await);
}

#[tokio::test]
async fn a_head_that_is_too_much_is_answered_with_431() {
    let gateway = home().start_fake(&[], &[]).await;
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(100_000));
    for headers in [many, long] {
        let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        let answer = raw(gateway.address, request.as_bytes()).await;
        assert_eq!(status_line(&answer), "HTTP/1.1 431 Request Header Fields Too Large");
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_hung_up_on() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = raw(gateway.address, b"GET / HTTP/1.1\r\nHost: loc").await;
    assert_eq!(answer, "");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_announced_or_not() {
    let gateway = home().start_fake(&[], &[]).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let announced = format!("{head}Content-Length: 90000000\r\n\r\n");
    let answer = raw(gateway.address, announced.as_bytes()).await;
    assert_eq!(status_line(&answer), "HTTP/1.1 413 Payload Too Large");
    let body = vec![b' '; 9_000_000];
    let answer = http::send(gateway.address, Method::POST, "/v1/chat/completions", &[], body).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.json().await["error"]["code"], "request_too_large");
}

#[tokio::test]
async fn nonsense_in_a_body_is_named() {
    let gateway = home().start_fake(&[], &[]).await;
    let post = async |body: &str| {
        let path = "/v1/chat/completions";
        let answer = http::send(gateway.address, Method::POST, path, &[], body.to_owned()).await;
        (answer.status, answer.json().await["error"]["message"].as_str().unwrap().to_owned())
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, message) in [
        ("{", "the body is not valid JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "the body must be a JSON object, not an array"),
        ("{}", "`model` is missing: say which model to use"),
        (r#"{"model":"m"}"#, "`messages` is missing"),
        (&deep, "the body is not valid JSON: recursion limit exceeded at line 1 column 128"),
    ] {
        assert_eq!(post(body).await, (StatusCode::BAD_REQUEST, message.to_owned()));
    }
    assert!(!gateway.stage.has_another().await);
}

#[tokio::test]
async fn with_a_key_everything_but_the_probes_needs_it() {
    let gateway = home().start_fake(&[], &[("HEARTH_API_KEY", "s3cret")]).await;
    for path in ["/v1/models", "/api/ps", "/metrics", "/api/tags", "/", "/nowhere"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer", "{path}");
        let key = [("authorization", "Bearer s3cret")];
        let answer = http::send(gateway.address, Method::GET, path, &key, "").await;
        assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(gateway.get(path).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn only_pages_of_listed_origins_are_told_that_they_may_call() {
    let variables =
        [("HEARTH_ALLOWED_ORIGINS", "https://app.example/"), ("HEARTH_API_KEY", "s3cret")];
    let gateway = home().start_fake(&[], &variables).await;
    let ask = async |method: Method, origin: &str, key: &str| {
        let headers =
            [("origin", origin), ("access-control-request-method", "POST"), ("authorization", key)];
        let answer = http::send(gateway.address, method, "/v1/models", &headers, "").await;
        let told: Vec<String> = ["origin", "methods", "headers"]
            .into_iter()
            .filter_map(|what| answer.headers.get(format!("access-control-allow-{what}")))
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        (answer.status, told, answer.headers.get("vary").is_some())
    };
    let page = "https://app.example";
    let headers = "authorization, content-type, x-api-key, x-request-id";
    let all = [page, "GET, POST, DELETE, OPTIONS", headers].map(str::to_owned).to_vec();
    let (no_content, ok) = (StatusCode::NO_CONTENT, StatusCode::OK);
    assert_eq!(ask(Method::OPTIONS, page, "").await, (no_content, all, true));
    let origin_only = vec![page.to_owned()];
    let answered = ask(Method::GET, page, "Bearer s3cret").await;
    assert_eq!(answered, (ok, origin_only.clone(), true));
    let refused = ask(Method::GET, page, "").await;
    assert_eq!(refused, (StatusCode::UNAUTHORIZED, origin_only, true));
    for method in [Method::OPTIONS, Method::GET] {
        let stranger = ask(method, "https://evil.com", "Bearer s3cret").await;
        assert_eq!(stranger, (StatusCode::FORBIDDEN, vec![], false));
    }
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_repeats_a_harmless_one() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = gateway.get("/api/version").await;
    assert!(answer.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
    assert_eq!(answer.headers.get("openai-processing-ms"), None);
    assert_eq!(answer.json().await, json!({"version": env!("CARGO_PKG_VERSION")}));
    let given = [("x-request-id", "abc-123")];
    let answer = http::send(gateway.address, Method::GET, "/nowhere", &given, "").await;
    assert_eq!(answer.headers["x-request-id"], "abc-123");
    assert_eq!(answer.headers["openai-version"], "2020-10-01");
    let took: u64 = answer.headers["openai-processing-ms"].to_str().unwrap().parse().unwrap();
    assert!(took < 60_000, "{took}");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let gateway = home().start_fake(&[], &[("HEARTH_MAX_CONNECTIONS", "1")]).await;
    let mut first = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut begun = [0; "HTTP/1.1 200 OK".len()];
    first.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200 OK");
    let mut second = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    second.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    // While the first asks again and is answered, nobody takes up the second.
    for _ in 0..20 {
        first.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert_ne!(first.read(&mut [0; 4096]).await.unwrap(), 0);
        let nothing = second.try_read(&mut [0; 1]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    }
    drop(first);
    hearth_tests::patiently("the second to be answered", second.read_exact(&mut begun))
        .await
        .unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200 OK");
}
