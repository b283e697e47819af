//! The counts of a completion, as OpenAI spells them. Pure.

use async_openai::types::chat::{CompletionTokensDetails, CompletionUsage, PromptTokensDetails};

use crate::generation::Usage;

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
