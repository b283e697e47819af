//! The parser of every request that has a body, by the path that it is sent to. Pure.
//!
//! The endpoints call their own; this list is for what holds of all of them: any body is a request, or is
//! refused with a 4xx that names the field. Its test tries that with requests that are nearly right,
//! `gateway/fuzz` with anything.

#[cfg(test)]
pub(crate) mod tests;

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::parse_object;
use crate::ollama::{create, embed, generate, manage, pull, show};
use crate::openai::{completions, embeddings, rerank, responses, tokenize};
use crate::{control, ollama, openai};

/// The parser of one endpoint's requests.
#[derive(Debug, Clone, Copy)]
pub struct Parser {
    /// The path, and which of its shapes if it has several.
    pub endpoint: &'static str,
    /// A request with every field that is read.
    pub example: &'static str,
    check: fn(&Map<String, Value>) -> Result<(), ApiError>,
}

impl Parser {
    const fn new(
        endpoint: &'static str,
        check: fn(&Map<String, Value>) -> Result<(), ApiError>,
        example: &'static str,
    ) -> Self {
        Self { endpoint, example, check }
    }

    /// Whether a body is a request.
    ///
    /// # Errors
    /// [`ApiError::NotJson`], or [`ApiError::Invalid`] that names the field if the body has any.
    pub fn check(&self, body: &[u8]) -> Result<(), ApiError> {
        (self.check)(&parse_object(body)?)
    }
}

/// All of them. New ones stand at the end: the corpora of `gateway/fuzz` go by the place.
pub const PARSERS: [Parser; 20] = [
    Parser::new("/v1/chat/completions", openai::chat::check, include_str!("parsing/chat.json")),
    Parser::new(
        "/v1/completions",
        completions::check,
        r#"{"model":"m","prompt":["a",[1,2]],"stream":true,"stream_options":{"include_usage":true,
            "continuous_usage_stats":true},"n":1,"echo":false,"logprobs":2,"max_tokens":5,
            "stop":["x"],"seed":1,"temperature":1,"top_p":0.5,"presence_penalty":1,
            "frequency_penalty":1,"logit_bias":{"5":1},"keep_alive":"5m","top_k":5,"min_p":0.1,
            "typical_p":0.5,"repetition_penalty":1.1,"min_tokens":1,"ignore_eos":true,
            "stop_token_ids":[5],"add_special_tokens":true,"user":"u","suffix":"","best_of":1,
            "response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object"}}}}"#,
    ),
    Parser::new("/v1/responses", responses::check, include_str!("parsing/responses.json")),
    Parser::new(
        "/v1/responses/input_tokens",
        responses::check_count,
        include_str!("parsing/responses.json"),
    ),
    Parser::new(
        "/v1/embeddings",
        embeddings::check,
        r#"{"model":"m","input":["a","b"],"encoding_format":"base64","dimensions":4,
            "truncate":true,"keep_alive":5,"user":"u"}"#,
    ),
    Parser::new(
        "/v1/rerank with documents",
        rerank::check,
        r#"{"model":"m","query":"q","documents":["a",{"text":"b"}],"top_n":1,
            "return_documents":true,"max_tokens_per_doc":9,"truncate":true,"truncation":true,
            "keep_alive":5}"#,
    ),
    Parser::new(
        "/rerank with texts",
        rerank::check,
        r#"{"query":"q","texts":["a","b"],"raw_scores":true,"return_text":true,"truncate":true}"#,
    ),
    Parser::new(
        "/tokenize",
        tokenize::check_tokenize,
        r#"{"model":"m","content":"a","prompt":"a","add_special":true,"add_special_tokens":true,
            "with_pieces":true,"return_token_strs":true,"parse_special":true,"keep_alive":5}"#,
    ),
    Parser::new(
        "/tokenize with messages",
        tokenize::check_tokenize,
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"add_generation_prompt":true,
            "continue_final_message":false,"keep_alive":5,
            "chat_template_kwargs":{"enable_thinking":false},
            "tools":[{"type":"function","function":{"name":"f","parameters":{}}}]}"#,
    ),
    Parser::new(
        "/detokenize",
        tokenize::check_detokenize,
        r#"{"model":"m","tokens":[1,2],"keep_alive":5}"#,
    ),
    Parser::new("/api/chat", ollama::chat::check, include_str!("parsing/ollama_chat.json")),
    Parser::new(
        "/api/generate",
        generate::check,
        r#"{"model":"m","prompt":"hi","system":"s","raw":false,"stream":false,"keep_alive":"5m",
            "think":"low","format":{"type":"object"},"logprobs":true,"top_logprobs":3,
            "images":[],"suffix":"","template":"","context":[],"truncate":true,"shift":false,
            "width":0,"height":0,"steps":0,"_debug_render_only":false,
            "options":{"num_predict":5,"seed":1,"stop":["x"],"temperature":1,"top_k":5,
            "top_p":0.5,"min_p":0.1,"typical_p":0.5,"repeat_penalty":1.1,"presence_penalty":1,
            "frequency_penalty":1,"num_ctx":99}}"#,
    ),
    Parser::new(
        "/api/embed",
        embed::check,
        r#"{"model":"m","input":["a","b"],"truncate":true,"dimensions":4,"keep_alive":5,
            "options":{"num_ctx":9}}"#,
    ),
    Parser::new(
        "/api/embeddings",
        embed::check_older,
        r#"{"model":"m","prompt":"a","truncate":true,"dimensions":4,"keep_alive":5,"options":{}}"#,
    ),
    Parser::new(
        "/api/show",
        show::check,
        r#"{"model":"m","name":"m","verbose":true,"system":"s","template":"t","options":{}}"#,
    ),
    Parser::new("/api/copy", manage::check_copy, r#"{"source":"m","destination":"me/n:q4"}"#),
    Parser::new("/api/delete", manage::check_delete, r#"{"model":"m","name":"m"}"#),
    Parser::new(
        "/api/pull",
        pull::check,
        r#"{"model":"owner/name","insecure":false,"stream":true,"username":"u","password":"p"}"#,
    ),
    Parser::new(
        "/api/create",
        create::check,
        r#"{"model":"n","from":"m","stream":true,"files":{},"adapters":{},"messages":[],
            "modelfile":"","parameters":{"seed":1},"quantize":"","system":"s","license":["MIT"],
            "template":"{{ messages }}","draft":"","info":{},"parser":"","path":"",
            "quantization":"","remote_host":"","renderer":""}"#,
    ),
    Parser::new(
        "/api/load and /api/unload",
        |map| control::check_load(map).and_then(|()| control::check_unload(map)),
        r#"{"model":"m","keep_alive":5,"force":true,"wait":true}"#,
    ),
];
