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
    /// What holds where a field is absent.
    pub defaults: Sampling,
}

/// Reads every field of [`Sampling`].
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub fn read(fields: Fields<'_>, spelling: Spelling) -> Result<Sampling, ApiError> {
    let Spelling { repetition_penalty, temperature_max, defaults } = spelling;
    let number =
        |name, range, default| Ok::<_, ApiError>(fields.number(name, range)?.unwrap_or(default));
    Ok(Sampling {
        repetition_penalty: number(repetition_penalty, 0.01..=10.0, defaults.repetition_penalty)?,
        presence_penalty: number("presence_penalty", -2.0..=2.0, defaults.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", -2.0..=2.0, defaults.frequency_penalty)?,
        temperature: number("temperature", 0.0..=temperature_max, defaults.temperature)?,
        // Elsewhere -1 means "all", which is what absent means here.
        top_k: fields.count("top_k")?.unwrap_or(defaults.top_k),
        top_p: number("top_p", 0.0..=1.0, defaults.top_p)?,
        min_p: number("min_p", 0.0..=1.0, defaults.min_p)?,
        // Any 64 bits are a seed; negative ones are too.
        seed: fields.integer("seed")?.map(i64::cast_unsigned),
    })
}
