//! Every failure that a client can see: its status, its words, and its two shapes.
//!
//! What each failure looks like is one row in `error/table.rs`; the door's own stand beside the
//! checks in `guard.rs`. OpenAI's clients read `error.message`, `type`,
//! `param` and `code`, all four always there; Ollama's read `error` as a text. Both retry on 429
//! and 5xx unless `x-should-retry` says otherwise, and give up on a `retry-after` above 120 s.

mod table;

use std::time::Duration;

use hearth_shared::codec::EncodeError;
use hearth_shared::ids::ModelName;
use hearth_shared::protocol::RequestFailure;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::catalog::CatalogUnavailable;
use crate::fleet::{Loss, Refusal};
use crate::hub::HubError;
use crate::metrics::Outcome;
use crate::store::StoreError;

/// Why a request gets no answer, or none to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A field of the request is wrong.
    #[error("{message}")]
    Invalid {
        /// What is wrong and what would be right.
        message: String,
        /// Which field.
        param: Option<String>,
    },
    /// The body is no JSON.
    #[error("the body is not valid JSON: {0}")]
    NotJson(serde_json::Error),
    /// There is no such model.
    #[error("the model '{name}' does not exist; {hint}")]
    UnknownModel {
        /// What was asked for, as it was written.
        name: String,
        /// What there is.
        hint: String,
    },
    /// There is no such response, or not any more.
    #[error("there is no response '{id}'; they are kept for an hour, unless `store` is false")]
    UnknownResponse {
        /// What was asked for.
        id: String,
        /// The field that names it, if one does.
        param: Option<&'static str>,
    },
    /// Nobody knows which models there are.
    #[error(transparent)]
    Catalog(#[from] CatalogUnavailable),
    /// There is no such path.
    #[error(
        "there is nothing at {path}; GET /v1/models and POST /v1/chat/completions are good starts"
    )]
    NotFound {
        /// The path asked for.
        path: String,
    },
    /// The path is there for other methods.
    #[error("{path} takes {allow}, not {method}")]
    MethodNotAllowed {
        /// The path asked for.
        path: String,
        /// The method used.
        method: String,
        /// The methods that it takes, as in an `Allow` header.
        allow: &'static str,
    },
    /// Refused at the door.
    #[error("{message}")]
    Guard {
        /// The status.
        status: StatusCode,
        /// What is wrong and what would be right.
        message: String,
        /// OpenAI's `code`.
        code: &'static str,
    },
    /// The body is too long.
    #[error("the body has more than {limit} bytes")]
    BodyTooLarge {
        /// The most that is read.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    BodyTooSlow(Duration),
    /// The caller's key allows no more requests at once.
    #[error("this API key allows {limit} requests at once; wait for one of them to end")]
    KeyBusy {
        /// How many it allows.
        limit: u32,
    },
    /// Enough responses are made in the background already.
    #[error(
        "{limit} responses are being made in the background; wait for one of them, or cancel one"
    )]
    BackgroundFull {
        /// How many there may be.
        limit: usize,
    },
    /// Too many bodies are being read already.
    #[error("too many requests are being read; try again in a moment")]
    Crowded,
    /// The body broke off.
    #[error("the body can't be read: {0}")]
    BodyBroken(String),
    /// The models directory stays as it is.
    #[error("{}", describe_store(.0))]
    Store(#[from] StoreError),
    /// A model can't be had from the hub.
    #[error("{0}")]
    Hub(#[from] HubError),
    /// What was pulled is there, and the catalogue does not take it for a model.
    #[error("'{0}' was pulled, but is no model that can be served; the server's log says why")]
    NotServable(ModelName),
    /// A model can't be deleted while others are made of it.
    #[error("{} made of '{model}' and would not work without it; delete that first", are(.needed_by))]
    ModelNeeded {
        /// The model.
        model: ModelName,
        /// Which are made of it.
        needed_by: Vec<ModelName>,
    },
    /// The name is the configuration's.
    #[error("'{0}' is another name of a model, under [aliases] in hearth.toml; change it there")]
    IsAlias(ModelName),
    /// A model can't be deleted while it works.
    #[error("{0} is in use and did not finish in time; try again later")]
    ModelInUse(ModelName),
    /// The fleet gave no lease.
    #[error("{model}: {refusal}")]
    Refused {
        /// The model.
        model: ModelName,
        /// Why.
        refusal: Refusal,
    },
    /// The worker refused the request, or failed in the middle of it.
    #[error("{}", describe(.0))]
    Worker(RequestFailure),
    /// The worker is lost, or the client too slow for it.
    #[error("{0}")]
    Lost(Loss),
    /// The request does not fit into a frame.
    #[error("the request is too large: {0}")]
    TooLarge(#[from] EncodeError),
}

fn are(names: &[ModelName]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let are = if quoted.len() == 1 { "is" } else { "are" };
    format!("{} {are}", quoted.join(", "))
}

fn describe_store(error: &StoreError) -> String {
    match error {
        // What the system says can name places that are nobody's business; it is in the log.
        StoreError::Io(_) => {
            "the models directory can't be changed; the server's log says why".to_owned()
        }
        StoreError::Taken(_)
        | StoreError::TooDeep(_)
        | StoreError::NotAnEntry(_)
        | StoreError::Gone(_)
        | StoreError::Outside(_)
        | StoreError::NoModel => error.to_string(),
    }
}

fn describe(failure: &RequestFailure) -> String {
    match failure {
        RequestFailure::ContextOverflow { prompt_tokens, context_length } => format!(
            "the prompt has {prompt_tokens} tokens, but this model's context takes \
             {context_length}, answer included; shorten it"
        ),
        RequestFailure::Template { message } => {
            format!("the model's chat template refused the messages: {message}")
        }
        RequestFailure::NoTemplate => "the model has no chat template, so it can't chat".to_owned(),
        RequestFailure::Unsupported { message }
        | RequestFailure::Constraint { message }
        | RequestFailure::Invalid { message } => message.clone(),
        // What the engine says can name paths and pointers; it is in the log.
        RequestFailure::Engine { .. } => {
            "the model failed on this request; the server's log says how".to_owned()
        }
    }
}

impl ApiError {
    /// A field that is wrong.
    #[must_use]
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), param: Some(param.into()) }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.row("").status
    }

    /// When another try is worth it; `None` says nothing.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.row("").retry_after
    }

    /// Whether clients should retry by themselves; `None` leaves it to them.
    #[must_use]
    pub fn should_retry(&self) -> Option<bool> {
        let in_vain = match self {
            // Two workers have been lost to it already.
            Self::Lost(Loss::WorkerGone) | Self::Refused { refusal: Refusal::NoRoom(_), .. } => {
                true
            }
            Self::Refused { refusal: Refusal::LoadFailed(failure), .. } => failure.repeats(),
            _ => false,
        };
        in_vain.then_some(false)
    }

    /// How the request counts.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.row("").outcome
    }

    /// The body on `/v1`, also what a stream that fails in the middle ends with.
    #[must_use]
    pub fn openai_body(&self) -> Value {
        self.openai_body_for("messages")
    }

    /// The same where what the model reads is in this field.
    #[must_use]
    pub fn openai_body_for(&self, prompt: &str) -> Value {
        let row = self.row(prompt);
        json!({ "error": {
            "message": self.to_string(),
            "type": kind(row.status),
            "param": row.param,
            "code": row.code,
        }})
    }

    /// The body on `/api`. A text is all that there is room for, so it says which field is wrong, too.
    #[must_use]
    pub fn ollama_body(&self) -> Value {
        let text = match self {
            Self::Invalid { message, param: Some(param) } if !message.contains(param.as_str()) => {
                format!("{param}: {message}")
            }
            _ => self.to_string(),
        };
        json!({ "error": text })
    }
}

/// OpenAI's `type`, which follows the status.
fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_a_rate_limit_with_all_four_keys() {
        let refusal = Refusal::QueueFull { waiting: 3, retry_after: Duration::from_secs(7) };
        let error = ApiError::Refused { model: "m".parse().unwrap(), refusal };
        assert_eq!(error.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(
            error.openai_body(),
            json!({ "error": {
                "message": "m: 3 requests are waiting for this model already",
                "type": "rate_limit_error",
                "param": null,
                "code": "queue_full",
            }})
        );
    }

    #[test]
    fn an_unreadable_catalogue_is_our_trouble_and_passes() {
        let error = ApiError::from(CatalogUnavailable);
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(error.openai_body()["error"]["code"], "catalog_unavailable");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn what_an_engine_says_stays_inside() {
        let failure = RequestFailure::Engine { message: "canary at 0x1234".to_owned() };
        let error = ApiError::Worker(failure);
        assert_eq!(error.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!error.openai_body().to_string().contains("canary"));
    }

    #[test]
    fn the_counts_of_an_overflow_are_told() {
        let failure = RequestFailure::ContextOverflow { prompt_tokens: 900, context_length: 512 };
        let body = ApiError::Worker(failure).openai_body();
        assert_eq!(body["error"]["code"], "context_length_exceeded");
        assert_eq!(body["error"]["param"], "messages");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("900") && message.contains("512"), "{message}");
    }
}
