//! The counts of a completion, as OpenAI spells them, and when a stream tells them.

use std::sync::Arc;

use async_openai::types::chat::{CompletionTokensDetails, CompletionUsage, PromptTokensDetails};

use hearth_shared::protocol::Prompt;

use crate::app::App;
use crate::catalog::Model;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Usage;
use crate::keep_alive::KeepAlive;
use crate::metrics::RequestMeter;
use crate::oneshot::Call;

/// When a stream tells the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsageTold {
    Never,
    /// In a chunk of their own after the last choice.
    AtEnd,
    /// There, and so far in every chunk: vLLM's way.
    Always,
}

impl UsageTold {
    /// What `stream_options` say.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] that names the field.
    pub(super) fn read(fields: Fields<'_>) -> Result<Self, ApiError> {
        let Some(options) = fields.object("stream_options", "stream_options.")? else {
            return Ok(Self::Never);
        };
        let flag = |name| Ok::<_, ApiError>(options.flag(name)?.unwrap_or(false));
        let (at_end, always) = (flag("include_usage")?, flag("continuous_usage_stats")?);
        Ok(match (always, at_end) {
            (true, _) => Self::Always,
            (false, true) => Self::AtEnd,
            (false, false) => Self::Never,
        })
    }

    /// What a chunk with a choice has for `usage`: absent, null or the counts so far.
    pub(super) fn in_chunk(self, so_far: Usage) -> Option<Option<CompletionUsage>> {
        match self {
            Self::Never => None,
            Self::AtEnd => Some(None),
            Self::Always => Some(Some(usage(so_far))),
        }
    }
}

/// How many tokens a prompt has. A worker tells that with the end of its answer; who has to know it
/// before asks for the tokens first.
///
/// # Errors
/// [`ApiError`]
pub(super) async fn count(
    app: &App,
    model: &Arc<Model>,
    keep_alive: Option<KeepAlive>,
    prompt: &Prompt,
    endpoint: &'static str,
) -> Result<u32, ApiError> {
    if let Prompt::Tokens(tokens) = prompt {
        return Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX));
    }
    let meter = RequestMeter::start(endpoint);
    let call = Call::new(app, Arc::clone(model), keep_alive, meter);
    let tokens = call.tokenize(prompt.clone()).await?;
    Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
}

/// The counts as OpenAI spells them.
pub(super) fn usage(usage: Usage) -> CompletionUsage {
    CompletionUsage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: usage.total_tokens(),
        prompt_tokens_details: Some(PromptTokensDetails {
            cached_tokens: Some(usage.cached_tokens),
            ..PromptTokensDetails::default()
        }),
        completion_tokens_details: Some(CompletionTokensDetails {
            reasoning_tokens: Some(usage.reasoning_tokens),
            ..CompletionTokensDetails::default()
        }),
    }
}
