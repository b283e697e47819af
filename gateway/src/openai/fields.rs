//! What becomes of each field of the requests that generate nothing: one table per endpoint and shape.
//!
//! The parsers and the headers of the answers go by them; `docs/compatibility.md` shows them, and the
//! tests go through them row by row. Those that generate have theirs beside their parsers.

use crate::known::{Known, honoured, ignored, refused};

const MODEL: Known = honoured("model", r#"{"model":"other"}"#, "");
const OR_ONLY: Known =
    honoured("model", r#"{"model":"other"}"#, "may be left out where there is just one");
const KEEP_ALIVE: Known =
    honoured("keep_alive", r#"{"keep_alive":"10s"}"#, "how long the model stays loaded");
const TTL: Known = honoured("ttl", r#"{"ttl":10}"#, "LM Studio's name of `keep_alive`");
const QUERY: Known = honoured("query", r#"{"query":"other"}"#, "");

/// `POST /v1/embeddings`
pub(super) const EMBEDDINGS: &[Known] = &[
    MODEL,
    honoured(
        "input",
        r#"{"input":["a","b"]}"#,
        "a string, strings, tokens or arrays of tokens, up to 2048",
    ),
    honoured("encoding_format", r#"{"encoding_format":"base64"}"#, "`float` or `base64`"),
    honoured("dimensions", r#"{"dimensions":4}"#, ""),
    honoured(
        "truncate",
        r#"{"truncate":true}"#,
        "false where absent: OpenAI refuses what is too long",
    ),
    KEEP_ALIVE,
    TTL,
    ignored("user", r#"{"user":"u"}"#, ""),
];

/// `POST /v1/rerank` and `/rerank` with `documents`
pub(super) const RERANK: &[Known] = &[
    OR_ONLY,
    QUERY,
    honoured(
        "documents",
        r#"{"documents":["a",{"text":"b"}]}"#,
        "strings, or objects with a `text`, up to 2048",
    ),
    honoured("top_n", r#"{"top_n":1}"#, "how many of the best are told"),
    honoured("return_documents", r#"{"return_documents":false}"#, "true where absent"),
    honoured("max_tokens_per_doc", r#"{"max_tokens_per_doc":9}"#, ""),
    honoured("truncate", r#"{"truncate":false}"#, "true where absent"),
    honoured("truncation", r#"{"truncation":false}"#, "another name of `truncate`"),
    KEEP_ALIVE,
    TTL,
];

/// `POST /rerank` and `/v1/rerank` with `texts`
pub(super) const RERANK_TEXTS: &[Known] = &[
    OR_ONLY,
    QUERY,
    honoured("texts", r#"{"texts":["a","b"]}"#, "up to 2048"),
    honoured("raw_scores", r#"{"raw_scores":true}"#, "what the model says, not between 0 and 1"),
    honoured("return_text", r#"{"return_text":true}"#, ""),
    honoured("truncate", r#"{"truncate":true}"#, "false where absent"),
    honoured("top_n", r#"{"top_n":1}"#, "how many of the best are told"),
    honoured("max_tokens_per_doc", r#"{"max_tokens_per_doc":9}"#, ""),
    KEEP_ALIVE,
    TTL,
];

/// `POST /tokenize`
pub(super) const TOKENIZE: &[Known] = &[
    OR_ONLY,
    honoured("content", r#"{"content":"a"}"#, "llama.cpp's; goes before the other two"),
    honoured("prompt", r#"{"prompt":"a"}"#, "vLLM's; goes before `messages`"),
    honoured("messages", r#"{"messages":[{"role":"user","content":"other"}]}"#, ""),
    honoured(
        "add_special",
        r#"{"content":"a","add_special":true}"#,
        "of `content`; false where absent",
    ),
    honoured(
        "add_special_tokens",
        r#"{"prompt":"a","add_special_tokens":false}"#,
        "of `prompt`; true where absent",
    ),
    honoured("with_pieces", r#"{"with_pieces":true}"#, ""),
    honoured("return_token_strs", r#"{"return_token_strs":true}"#, ""),
    honoured("tools", r#"{"tools":[{"type":"function"}]}"#, "of `messages`"),
    honoured(
        "chat_template_kwargs",
        r#"{"chat_template_kwargs":{"enable_thinking":false}}"#,
        "variables for the chat template",
    ),
    KEEP_ALIVE,
    TTL,
    refused("parse_special", &["true"], r#"{"parse_special":false}"#),
    refused("add_generation_prompt", &["true"], r#"{"add_generation_prompt":false}"#),
    refused("continue_final_message", &["false"], r#"{"continue_final_message":true}"#),
];

/// `POST /detokenize`
pub(super) const DETOKENIZE: &[Known] =
    &[OR_ONLY, honoured("tokens", r#"{"tokens":[7]}"#, ""), KEEP_ALIVE, TTL];

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::error::ApiError;
    use crate::known::tests::{check_any, check_each};
    use crate::openai::{embeddings, rerank, tokenize};

    fn check<T: Debug>(
        table: &[Known],
        base: &Value,
        parse: impl Fn(&Map<String, Value>) -> Result<T, ApiError>,
    ) {
        check_each(table, base, &parse);
        check_any(table, base, &parse);
    }

    #[test]
    fn every_row_of_the_tables_is_true() {
        check(EMBEDDINGS, &json!({"model": "m", "input": "a"}), embeddings::parse);
        check(RERANK, &json!({"model": "m", "query": "q", "documents": ["a"]}), rerank::parse);
        check(RERANK_TEXTS, &json!({"model": "m", "query": "q", "texts": ["a"]}), rerank::parse);
        let messages = json!([{"role": "user", "content": "hi"}]);
        check(TOKENIZE, &json!({"model": "m", "messages": messages}), tokenize::parse_tokenize);
        check(DETOKENIZE, &json!({"model": "m", "tokens": [1]}), tokenize::parse_detokenize);
    }
}
