//! The fields that say how tokens are chosen, for both dialects. Pure.

use hearth_shared::protocol::Sampling;

use crate::error::ApiError;
use crate::fields::Fields;

/// Where the dialects differ.
#[derive(Debug, Clone, Copy)]
pub struct Spelling {
    /// What the repetition penalty is called.
    pub repetition_penalty: &'static str,
    /// The hottest temperature that is taken.
    pub temperature_max: f64,
}

/// What holds where a field is absent, in both dialects: Ollama's values.
///
/// OpenAI's own are plain sampling at temperature 1, which suits its models. A small one that draws
/// from its whole vocabulary meets nonsense within a few words and does not find its end.
const DEFAULTS: Sampling =
    Sampling { temperature: 0.8, top_k: 40, top_p: 0.9, ..Sampling::NEUTRAL };

/// Reads every field of [`Sampling`].
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub fn read(fields: Fields<'_>, spelling: Spelling) -> Result<Sampling, ApiError> {
    let Spelling { repetition_penalty, temperature_max } = spelling;
    let number =
        |name, range, default| Ok::<_, ApiError>(fields.number(name, range)?.unwrap_or(default));
    Ok(Sampling {
        repetition_penalty: number(repetition_penalty, 0.01..=10.0, DEFAULTS.repetition_penalty)?,
        presence_penalty: number("presence_penalty", -2.0..=2.0, DEFAULTS.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", -2.0..=2.0, DEFAULTS.frequency_penalty)?,
        temperature: number("temperature", 0.0..=temperature_max, DEFAULTS.temperature)?,
        // 0 is "all" here, and elsewhere -1 is.
        top_k: match fields.integer("top_k")? {
            Some(..0) => 0,
            Some(k) => u32::try_from(k).unwrap_or(u32::MAX),
            None => DEFAULTS.top_k,
        },
        top_p: number("top_p", 0.0..=1.0, DEFAULTS.top_p)?,
        min_p: number("min_p", 0.0..=1.0, DEFAULTS.min_p)?,
        typical_p: number("typical_p", 0.0..=1.0, DEFAULTS.typical_p)?,
        // Any 64 bits are a seed; negative ones are too.
        seed: fields.integer("seed")?.map(i64::cast_unsigned),
    })
}
