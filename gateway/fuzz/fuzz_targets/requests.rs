//! Any bytes as the body of any request: a request, or a 4xx whose words name the field; never a panic.
//!
//! The first byte says which parser reads the rest: `a` the first of the list, and so on.

#![no_main]

use hearth::error::ApiError;
use hearth::parsing::PARSERS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, body)) = bytes.split_first() else { return };
    let parser = &PARSERS[usize::from(first.wrapping_sub(b'a')) % PARSERS.len()];
    let Err(error) = parser.check(body) else { return };
    assert!(error.status().is_client_error(), "{}: {error:?}", parser.endpoint);
    if let ApiError::Invalid { param: Some(param), .. } = &error {
        let words = error.ollama_body()["error"].as_str().unwrap_or_default().to_owned();
        assert!(words.contains(param.as_str()), "{}: {param}: {words}", parser.endpoint);
    }
});
