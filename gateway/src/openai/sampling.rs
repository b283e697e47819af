//! The fields that say how tokens are chosen, the same on every endpoint. Pure.

use hearth_shared::protocol::Sampling;

use crate::error::ApiError;
use crate::fields::Fields;

/// Reads OpenAI's fields, and those that vLLM and others added.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(super) fn sampling(fields: Fields<'_>) -> Result<Sampling, ApiError> {
    let default = Sampling::default();
    Ok(Sampling {
        repetition_penalty: fields
            .number("repetition_penalty", 0.01..=10.0)?
            .unwrap_or(default.repetition_penalty),
        presence_penalty: fields
            .number("presence_penalty", -2.0..=2.0)?
            .unwrap_or(default.presence_penalty),
        frequency_penalty: fields
            .number("frequency_penalty", -2.0..=2.0)?
            .unwrap_or(default.frequency_penalty),
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature),
        // Elsewhere -1 means "all", which is what absent means here.
        top_k: fields.count("top_k")?.unwrap_or(default.top_k),
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(default.top_p),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        // Any 64 bits are a seed; negative ones are too.
        seed: fields.integer("seed")?.map(i64::cast_unsigned),
    })
}
