//! What becomes of each field of Ollama's requests, and of each of its options: one table per endpoint.
//!
//! Each parser of this dialect begins with [`check`]; `docs/compatibility-ollama.md` shows the tables, and
//! the tests go through them row by row.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::known::{self, Ignored, Known, honoured, ignored, refused};

const MODEL: Known = honoured("model", r#"{"model":"other"}"#, "");
const NAME: Known = honoured("name", r#"{"name":"other"}"#, "an older word for `model`");
const STREAM: Known = honoured("stream", r#"{"stream":false}"#, "true where absent");
const KEEP_ALIVE: Known =
    honoured("keep_alive", r#"{"keep_alive":"10s"}"#, "how long the model stays loaded");
const TTL: Known = honoured("ttl", r#"{"ttl":10}"#, "LM Studio's name of `keep_alive`");
const FORMAT: Known = honoured(
    "format",
    r#"{"format":{"type":"object"}}"#,
    "`\"json\"` or a JSON schema, enforced token by token",
);
const THINK: Known = honoured(
    "think",
    r#"{"think":"low"}"#,
    "`true`, `false`, `low`, `medium`, `high`, `max`, handed to the chat template as `enable_thinking` and \
     `reasoning_effort`. Anything but `false` is refused for a model whose template knows no thinking",
);
const LOGPROBS: Known = honoured("logprobs", r#"{"logprobs":true}"#, "");
const TOP_LOGPROBS: Known =
    honoured("top_logprobs", r#"{"logprobs":true,"top_logprobs":2}"#, "0 to 20; needs `logprobs`");
const OPTIONS: Known = honoured("options", r#"{"options":{"seed":7}}"#, "[below](#options)");
const NO_OPTIONS: Known =
    ignored("options", r#"{"options":{"num_ctx":9}}"#, "none of them means anything here");
const TRUNCATE: Known = ignored(
    "truncate",
    r#"{"truncate":true}"#,
    "what does not fit is always an error, as with `false`",
);
const SHIFT: Known = ignored(
    "shift",
    r#"{"shift":true}"#,
    "where the context ends, the answer ends with `length`, as with `false`",
);
const DEBUG: Known = refused("_debug_render_only", &["false"], r#"{"_debug_render_only":true}"#);

/// `POST /api/chat`
pub(crate) const CHAT: &[Known] = &[
    MODEL,
    NAME,
    honoured(
        "messages",
        r#"{"messages":[{"role":"user","content":"other"}]}"#,
        "`role`, `content`, `thinking`, `tool_calls`, `tool_name`, `tool_call_id`; `images` are refused. \
         None load the model, or unload it with `keep_alive: 0`",
    ),
    honoured(
        "tools",
        r#"{"tools":[{"type":"function","function":{"name":"f"}}]}"#,
        "a call comes as a whole, with its arguments as an object",
    ),
    STREAM,
    KEEP_ALIVE,
    TTL,
    FORMAT,
    THINK,
    LOGPROBS,
    TOP_LOGPROBS,
    OPTIONS,
    TRUNCATE,
    SHIFT,
    DEBUG,
];

/// `POST /api/generate`
pub(crate) const GENERATE: &[Known] = &[
    MODEL,
    NAME,
    honoured(
        "prompt",
        r#"{"prompt":"other"}"#,
        "an empty one loads the model, or unloads it with `keep_alive: 0`",
    ),
    honoured("system", r#"{"system":"s"}"#, ""),
    honoured("raw", r#"{"raw":true}"#, "the prompt as it stands, special tokens recognised"),
    honoured("suffix", r#"{"suffix":"s"}"#, "[below](#filling-in-and-going-on)"),
    honoured(
        "template",
        r#"{"template":"{{ messages }}"}"#,
        "in Jinja, for this request alone; one in Go's language is refused",
    ),
    honoured("context", r#"{"context":[1]}"#, "[below](#filling-in-and-going-on)"),
    STREAM,
    KEEP_ALIVE,
    TTL,
    FORMAT,
    THINK,
    LOGPROBS,
    TOP_LOGPROBS,
    OPTIONS,
    TRUNCATE,
    SHIFT,
    refused("images", &["[]"], r#"{"images":["A"]}"#),
    refused("width", &["0"], r#"{"width":64}"#),
    refused("height", &["0"], r#"{"height":64}"#),
    refused("steps", &["0"], r#"{"steps":4}"#),
    DEBUG,
];

/// `POST /api/embed`
pub(crate) const EMBED: &[Known] = &[
    MODEL,
    NAME,
    honoured(
        "input",
        r#"{"input":["a","b"]}"#,
        "a text or up to 2048; none load or unload the model",
    ),
    honoured(
        "truncate",
        r#"{"truncate":false}"#,
        "true where absent; with `false` a text that does not fit is an error",
    ),
    honoured("dimensions", r#"{"dimensions":4}"#, ""),
    KEEP_ALIVE,
    TTL,
    NO_OPTIONS,
];

/// `POST /api/embeddings`
pub(crate) const EMBEDDINGS: &[Known] = &[
    MODEL,
    NAME,
    honoured("prompt", r#"{"prompt":"other"}"#, "an empty one loads or unloads the model"),
    honoured("truncate", r#"{"truncate":false}"#, "as `/api/embed` has it"),
    honoured("dimensions", r#"{"dimensions":4}"#, "as `/api/embed` has it"),
    KEEP_ALIVE,
    TTL,
    NO_OPTIONS,
];

/// `POST /api/show`
pub(crate) const SHOW: &[Known] = &[
    MODEL,
    NAME,
    honoured("verbose", r#"{"verbose":true}"#, "reads the files anew, vocabulary and all"),
    ignored("system", r#"{"system":"s"}"#, "what is kept is shown"),
    ignored("template", r#"{"template":"t"}"#, "what is kept is shown"),
    ignored("options", r#"{"options":{}}"#, "what is kept is shown"),
];

/// `POST /api/copy`
pub(crate) const COPY: &[Known] = &[
    honoured("source", r#"{"source":"other"}"#, ""),
    honoured(
        "destination",
        r#"{"destination":"other"}"#,
        "a name that is taken is refused with 409",
    ),
];

/// `DELETE /api/delete`
pub(crate) const DELETE: &[Known] = &[MODEL, NAME];

/// `POST /api/pull`
pub(crate) const PULL: &[Known] = &[
    MODEL,
    NAME,
    STREAM,
    ignored("insecure", r#"{"insecure":true}"#, "where models come from, the settings say"),
    ignored("username", r#"{"username":"u"}"#, "`HF_TOKEN` is for what is gated"),
    ignored("password", r#"{"password":"p"}"#, "`HF_TOKEN` is for what is gated"),
];

/// What asks for nothing of a field that is no boolean and no number.
const NOTHING: &[&str] = &["\"\"", "[]", "{}"];

/// `POST /api/create`
pub(crate) const CREATE: &[Known] = &[
    MODEL,
    NAME,
    honoured("from", r#"{"from":"other"}"#, "a model, or an absolute path"),
    honoured(
        "files",
        r#"{"from":null,"files":{"a.gguf":"sha256:1"}}"#,
        "one GGUF file that was uploaded",
    ),
    honoured(
        "system",
        r#"{"system":"s"}"#,
        "makes a [derived model](#derived-models-and-other-names)",
    ),
    honoured("template", r#"{"template":"{{ messages }}"}"#, "in Jinja; makes a derived model"),
    honoured("parameters", r#"{"parameters":{"seed":1}}"#, "makes a derived model"),
    honoured(
        "messages",
        r#"{"messages":[{"role":"user","content":"x"}]}"#,
        "makes a derived model",
    ),
    honoured("license", r#"{"license":"MIT"}"#, "a text or texts; makes a derived model"),
    STREAM,
    // What would change the weights, or how Ollama's own engine reads them, or comes from elsewhere.
    refused("adapters", NOTHING, r#"{"adapters":{"a":"b"}}"#),
    refused("draft", NOTHING, r#"{"draft":"x"}"#),
    refused("info", NOTHING, r#"{"info":{"a":1}}"#),
    refused("modelfile", NOTHING, r#"{"modelfile":"FROM x"}"#),
    refused("parser", NOTHING, r#"{"parser":"x"}"#),
    refused("path", NOTHING, r#"{"path":"/x"}"#),
    refused("quantization", NOTHING, r#"{"quantization":"q4_0"}"#),
    refused("quantize", NOTHING, r#"{"quantize":"q4_0"}"#),
    refused("remote_host", NOTHING, r#"{"remote_host":"x"}"#),
    refused("renderer", NOTHING, r#"{"renderer":"x"}"#),
];

const ENGINE: &str = "how Ollama's own engine runs";

/// What `options` may hold, where an answer is generated.
pub(super) const OF_OPTIONS: &[Known] = &[
    honoured("temperature", r#"{"temperature":0.5}"#, "0 to 10; 0.8 where absent"),
    honoured("top_k", r#"{"top_k":7}"#, "40 where absent; 0 is all"),
    honoured("top_p", r#"{"top_p":0.5}"#, "0.9 where absent"),
    honoured("min_p", r#"{"min_p":0.25}"#, ""),
    honoured("typical_p", r#"{"typical_p":0.25}"#, ""),
    honoured("repeat_penalty", r#"{"repeat_penalty":1.5}"#, ""),
    honoured("presence_penalty", r#"{"presence_penalty":1}"#, "-2 to 2"),
    honoured("frequency_penalty", r#"{"frequency_penalty":1}"#, "-2 to 2"),
    honoured("seed", r#"{"seed":7}"#, "-1 is any"),
    honoured("stop", r#"{"stop":["x"]}"#, "a text or up to 64"),
    honoured("num_predict", r#"{"num_predict":7}"#, "negative is no limit"),
    honoured(
        "num_ctx",
        r#"{"num_ctx":99}"#,
        "the most tokens of prompt and answer of this request; nothing is loaded anew for it, and more than \
         the model's context (or `context_length` of the configuration) it can't be. Where Ollama cuts the \
         prompt, Hearth refuses it with the counts",
    ),
    ignored("num_keep", r#"{"num_keep":4}"#, "nothing is shifted out"),
    ignored("repeat_last_n", r#"{"repeat_last_n":64}"#, "`repeat_penalty` looks at all of it"),
    ignored("num_batch", r#"{"num_batch":512}"#, ENGINE),
    ignored("num_gpu", r#"{"num_gpu":1}"#, ENGINE),
    ignored("main_gpu", r#"{"main_gpu":0}"#, ENGINE),
    ignored("num_thread", r#"{"num_thread":2}"#, ENGINE),
    ignored("use_mmap", r#"{"use_mmap":true}"#, ENGINE),
    ignored("use_mlock", r#"{"use_mlock":true}"#, ENGINE),
    ignored("numa", r#"{"numa":true}"#, ENGINE),
    ignored("low_vram", r#"{"low_vram":true}"#, ENGINE),
    ignored("f16_kv", r#"{"f16_kv":true}"#, ENGINE),
    ignored("logits_all", r#"{"logits_all":true}"#, ENGINE),
    ignored("vocab_only", r#"{"vocab_only":true}"#, ENGINE),
    ignored("embedding_only", r#"{"embedding_only":true}"#, ENGINE),
    ignored("draft_num_predict", r#"{"draft_num_predict":4}"#, ENGINE),
    ignored("tfs_z", r#"{"tfs_z":0.9}"#, "Ollama gave it up, too"),
    ignored("mirostat", r#"{"mirostat":1}"#, "Ollama gave it up, too"),
    ignored("mirostat_tau", r#"{"mirostat_tau":5}"#, "Ollama gave it up, too"),
    ignored("mirostat_eta", r#"{"mirostat_eta":0.1}"#, "Ollama gave it up, too"),
    ignored("penalize_newline", r#"{"penalize_newline":true}"#, "Ollama gave it up, too"),
];

/// Flags that change nothing here, but have to be flags.
const FLAGS: [&str; 3] = ["truncate", "shift", "insecure"];

/// Refuses what a table says is refused, and flags that are none.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(super) fn check(fields: Fields<'_>, table: &[Known]) -> Result<(), ApiError> {
    for flag in FLAGS.iter().filter(|flag| table.iter().any(|known| known.name == **flag)) {
        fields.flag(flag)?;
    }
    known::refuse(fields, table)
}

/// Names what is ignored of a request that is to be answered, its options included. Of those that
/// nobody knows the log tells, as Ollama's does: most are slips of the pen.
pub(super) fn ignored_of(map: &Map<String, Value>, table: &[Known]) -> Ignored {
    let mut names: Vec<String> =
        known::names_ignored(map, table).into_iter().map(str::to_owned).collect();
    if let Some(Value::Object(options)) = map.get("options") {
        let unknown = known::names_unknown(options, OF_OPTIONS);
        if !unknown.is_empty() {
            tracing::warn!(options = ?unknown, "there are no such options; they are ignored");
        }
        let ignored = known::names_ignored(options, OF_OPTIONS);
        names.extend(ignored.into_iter().map(|name| format!("options.{name}")));
    }
    known::in_a_header(&names)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde_json::json;

    use super::*;
    use crate::known::tests::{check_any, check_each, check_page};
    use crate::ollama::{chat, create, embed, generate, manage, pull, show};

    fn check_table<T: Debug>(
        table: &[Known],
        base: &Value,
        parse: impl Fn(&Map<String, Value>) -> Result<T, ApiError>,
    ) {
        // `model` goes before `name`, so that the row of `name` is tried without it.
        let (name, rest): (Vec<Known>, Vec<Known>) =
            table.iter().copied().partition(|known| known.name == "name");
        check_each(&rest, base, &parse);
        check_any(&rest, base, &parse);
        for name in name {
            let mut with = base.as_object().unwrap().clone();
            let model = with.remove("model").unwrap();
            assert!(parse(&with).is_err());
            with.insert(name.name.to_owned(), model);
            let said = |map| format!("{:?}", parse(map).unwrap());
            assert_eq!(said(&with), said(base.as_object().unwrap()));
        }
    }

    fn chat() -> Value {
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    }

    #[test]
    fn every_row_of_the_tables_is_true() {
        check_table(CHAT, &chat(), chat::parse);
        check_table(GENERATE, &json!({"model": "m", "prompt": "hi"}), generate::parse);
        check_table(EMBED, &json!({"model": "m", "input": "a"}), embed::parse_new);
        check_table(EMBEDDINGS, &json!({"model": "m", "prompt": "a"}), embed::parse_older);
        check_table(SHOW, &json!({"model": "m"}), show::parse);
        check_table(COPY, &json!({"source": "a", "destination": "b"}), manage::parse_copy);
        check_table(DELETE, &json!({"model": "m"}), manage::parse_delete);
        check_table(PULL, &json!({"model": "m"}), pull::parse);
        check_table(CREATE, &json!({"model": "m", "from": "a"}), create::parse);
    }

    #[test]
    fn every_row_of_the_options_is_true() {
        check_each(OF_OPTIONS, &json!({}), |options| {
            let mut request = chat();
            request["options"] = Value::Object(options.clone());
            chat::parse(request.as_object().unwrap())
        });
    }

    #[test]
    fn a_flag_that_changes_nothing_has_to_be_one() {
        for name in ["truncate", "shift"] {
            let mut request = chat();
            request[name] = json!("yes");
            let error = chat::parse(request.as_object().unwrap()).unwrap_err();
            assert_eq!(error.to_string(), format!("`{name}` must be true or false, not a string"));
        }
    }

    #[test]
    fn what_is_ignored_is_named_wherever_it_stands() {
        let named = |value: Value| ignored_of(value.as_object().unwrap(), CHAT);
        let request =
            json!({"model": "m", "keepalive": 1, "options": {"temprature": 1, "seed": 1}});
        assert_eq!(named(request).unwrap(), "keepalive, options.temprature");
        let request = json!({"model": "m", "truncate": true, "options": {"num_gpu": 1}});
        assert_eq!(named(request).unwrap(), "truncate, options.num_gpu");
        assert_eq!(named(json!({"model": "m", "options": {"seed": 1}})), None);
        assert_eq!(named(json!({"model": "m", "options": 5})), None);
    }

    #[test]
    fn the_documentation_says_what_the_tables_say() {
        let tables = [
            ("chat", CHAT),
            ("generate", GENERATE),
            ("options", OF_OPTIONS),
            ("embed", EMBED),
            ("embeddings", EMBEDDINGS),
            ("show", SHOW),
            ("copy", COPY),
            ("delete", DELETE),
            ("pull", PULL),
            ("create", CREATE),
        ];
        check_page("compatibility-ollama.md", &tables);
    }
}
