//! One row for each failure: its status, its code, and what a client may do about it. Pure.

use std::time::Duration;

use hearth_shared::protocol::RequestFailure;
use hyper::StatusCode;

use super::ApiError;
use crate::fleet::{Loss, Refusal};
use crate::hub::HubError;
use crate::metrics::Outcome;
use crate::store::StoreError;

/// How one failure looks from outside.
pub(super) struct Row<'a> {
    pub(super) status: StatusCode,
    /// OpenAI's `code`.
    pub(super) code: Option<&'a str>,
    /// OpenAI's `param`.
    pub(super) param: Option<&'a str>,
    pub(super) retry_after: Option<Duration>,
    pub(super) outcome: Outcome,
}

/// What will be better in a moment, we don't know when.
const SOON: Option<Duration> = Some(Duration::from_secs(1));

impl<'a> Row<'a> {
    fn new(status: StatusCode, code: &'a str, outcome: Outcome) -> Self {
        Self { status, code: Some(code), param: None, retry_after: None, outcome }
    }

    /// The client's mistake.
    fn invalid(status: StatusCode, code: &'a str) -> Self {
        Self::new(status, code, Outcome::Invalid)
    }

    /// A mistake that OpenAI has no code for.
    fn wrong(param: Option<&'a str>) -> Self {
        let status = StatusCode::BAD_REQUEST;
        Self { status, code: None, param, retry_after: None, outcome: Outcome::Invalid }
    }

    fn refused(status: StatusCode, code: &'a str, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..Self::new(status, code, Outcome::Refused) }
    }

    fn about(self, param: &'a str) -> Self {
        Self { param: Some(param), ..self }
    }
}

impl ApiError {
    /// The row, where the field `prompt` holds what the model reads.
    pub(super) fn row<'a>(&'a self, prompt: &'a str) -> Row<'a> {
        match self {
            Self::Invalid { param, .. } => Row::wrong(param.as_deref()),
            Self::BodyBroken(_) => Row::wrong(None),
            Self::NotJson(_) => Row::invalid(StatusCode::BAD_REQUEST, "invalid_json"),
            Self::UnknownModel { .. } => {
                Row::invalid(StatusCode::NOT_FOUND, "model_not_found").about("model")
            }
            // As a field it is a wrong value, in the path a thing that is not there.
            Self::UnknownResponse { param: Some(param), .. } => {
                Row::invalid(StatusCode::BAD_REQUEST, "previous_response_not_found").about(param)
            }
            Self::UnknownResponse { param: None, .. } => {
                Row::invalid(StatusCode::NOT_FOUND, "response_not_found")
            }
            Self::NotFound { .. } => Row::invalid(StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed { .. } => {
                Row::invalid(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
            }
            Self::Guard { status, code, .. } => Row::invalid(*status, code),
            Self::BodyTooLarge { .. } | Self::TooLarge(_) => {
                Row::invalid(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large")
            }
            Self::BodyTooSlow(_) => Row::invalid(StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::Catalog(_) => {
                Row::refused(StatusCode::SERVICE_UNAVAILABLE, "catalog_unavailable", SOON)
            }
            Self::Store(error) => of_store_error(error),
            Self::Hub(error) => of_hub_error(error),
            Self::NotServable(_) => {
                Row::new(StatusCode::BAD_GATEWAY, "not_servable", Outcome::Failed)
            }
            Self::ModelNeeded { .. } => {
                Row::invalid(StatusCode::CONFLICT, "model_needed").about("model")
            }
            Self::IsAlias(_) => Row::invalid(StatusCode::CONFLICT, "model_is_alias").about("model"),
            Self::ModelInUse(_) => Row::refused(StatusCode::CONFLICT, "model_in_use", SOON),
            Self::KeyBusy { .. } => {
                Row::refused(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", SOON)
            }
            Self::BackgroundFull { .. } => {
                Row::refused(StatusCode::TOO_MANY_REQUESTS, "background_full", SOON)
            }
            Self::Crowded => Row::refused(StatusCode::SERVICE_UNAVAILABLE, "server_busy", SOON),
            Self::Refused { refusal, .. } => of_refusal(refusal),
            Self::Worker(failure) => of_request_failure(failure, prompt),
            Self::Lost(Loss::WorkerGone) => {
                Row::new(StatusCode::BAD_GATEWAY, "worker_exited", Outcome::Failed)
            }
            Self::Lost(Loss::Unloaded) => {
                Row::refused(StatusCode::SERVICE_UNAVAILABLE, "model_unloaded", SOON)
            }
            Self::Lost(Loss::TooSlow) => {
                Row::new(StatusCode::BAD_GATEWAY, "client_too_slow", Outcome::Cancelled)
            }
        }
    }
}

fn of_store_error(error: &StoreError) -> Row<'static> {
    match error {
        StoreError::Taken(_) => Row::invalid(StatusCode::CONFLICT, "model_exists").about("model"),
        StoreError::Gone(_) => {
            Row::invalid(StatusCode::NOT_FOUND, "model_not_found").about("model")
        }
        StoreError::TooDeep(_)
        | StoreError::NotAnEntry(_)
        | StoreError::Outside(_)
        | StoreError::NoModel => Row::wrong(Some("model")),
        StoreError::Io(_) => {
            Row::new(StatusCode::INTERNAL_SERVER_ERROR, "storage_error", Outcome::Failed)
        }
    }
}

fn of_hub_error(error: &HubError) -> Row<'static> {
    match error {
        HubError::NoRepo { .. } => {
            Row::invalid(StatusCode::NOT_FOUND, "model_not_found").about("model")
        }
        HubError::Choice(_) => Row::wrong(Some("model")),
        HubError::Endpoint
        | HubError::Unreachable { .. }
        | HubError::Status { .. }
        | HubError::Nonsense { .. }
        | HubError::BrokeOff { .. }
        | HubError::Damaged { .. } => {
            Row::new(StatusCode::BAD_GATEWAY, "hub_error", Outcome::Failed)
        }
        HubError::Io(_) => {
            Row::new(StatusCode::INTERNAL_SERVER_ERROR, "storage_error", Outcome::Failed)
        }
    }
}

fn of_refusal(refusal: &Refusal) -> Row<'static> {
    match refusal {
        Refusal::QueueFull { retry_after, .. } => {
            Row::refused(StatusCode::TOO_MANY_REQUESTS, "queue_full", Some(*retry_after))
        }
        Refusal::WaitedTooLong { .. } => {
            Row::refused(StatusCode::GATEWAY_TIMEOUT, "queue_timeout", None)
        }
        Refusal::LoadFailed(_) => Row::refused(StatusCode::BAD_GATEWAY, "model_load_failed", None),
        Refusal::BackingOff { retry_after, .. } => {
            let retry_after = Some(*retry_after);
            Row::refused(StatusCode::SERVICE_UNAVAILABLE, "model_backing_off", retry_after)
        }
        Refusal::NoRoom(_) => {
            Row::refused(StatusCode::SERVICE_UNAVAILABLE, "insufficient_memory", None)
        }
        Refusal::Unloaded => Row::refused(StatusCode::SERVICE_UNAVAILABLE, "model_unloaded", SOON),
        Refusal::Draining => Row::refused(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", SOON),
    }
}

fn of_request_failure<'a>(failure: &RequestFailure, prompt: &'a str) -> Row<'a> {
    let bad = StatusCode::BAD_REQUEST;
    match failure {
        RequestFailure::ContextOverflow { .. } => {
            Row::invalid(bad, "context_length_exceeded").about(prompt)
        }
        RequestFailure::Template { .. } => Row::invalid(bad, "chat_template_error").about(prompt),
        RequestFailure::NoTemplate => Row::invalid(bad, "no_chat_template"),
        RequestFailure::Unsupported { .. } => Row::invalid(bad, "unsupported").about("model"),
        RequestFailure::Constraint { .. } => {
            Row::invalid(bad, "invalid_constraint").about("response_format")
        }
        RequestFailure::Invalid { .. } => Row::wrong(None),
        RequestFailure::Engine { .. } => {
            Row::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_error", Outcome::Failed)
        }
    }
}
