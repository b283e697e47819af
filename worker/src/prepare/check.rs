//! Rules of a request that the engine could not follow, refused before they reach it.
//!
//! Pure. The gateway has checked what it can; a number that is none would spoil every logit in
//! silence, and only the worker knows how many tokens there are.

use hearth_shared::protocol::{Generate, RequestFailure, Sampling};

/// Every choice takes a slot, or waits for one.
const CHOICES_MAX: u32 = 128;
/// Far more than any dialect lets a client ask for; each is a message's weight per token.
const LOGPROBS_MAX: u32 = 128;

/// Checks everything but the prompt.
///
/// # Errors
/// [`RequestFailure::Invalid`], what is wrong named.
pub(super) fn rules(request: &Generate, vocabulary: usize) -> Result<(), RequestFailure> {
    sampling(&request.sampling)?;
    let biased: Vec<u32> = request.logit_bias.iter().map(|(id, _)| *id).collect();
    known(&biased, vocabulary, "`logit_bias`")?;
    known(&request.stop_token_ids, vocabulary, "`stop_token_ids`")?;
    if let Some((_, bias)) = request.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
        return invalid(format!("`logit_bias` can't be {bias}"));
    }
    let choices = request.choices;
    if !(1..=CHOICES_MAX).contains(&choices) {
        return invalid(format!("choices can be 1 to {CHOICES_MAX}, not {choices}"));
    }
    match request.logprobs.filter(|&top| top > LOGPROBS_MAX) {
        Some(top) => invalid(format!("`logprobs` can be 0 to {LOGPROBS_MAX}, not {top}")),
        None => Ok(()),
    }
}

/// Checks that the model knows all of these tokens.
///
/// # Errors
/// [`RequestFailure::Invalid`].
pub(super) fn known(ids: &[u32], vocabulary: usize, place: &str) -> Result<(), RequestFailure> {
    let is_unknown = |id: u32| usize::try_from(id).is_ok_and(|id| id >= vocabulary);
    match ids.iter().find(|&&id| is_unknown(id)) {
        None => Ok(()),
        Some(id) => {
            let last = vocabulary.saturating_sub(1);
            invalid(format!("{place} names token {id}; the model knows tokens 0 to {last}"))
        }
    }
}

fn sampling(sampling: &Sampling) -> Result<(), RequestFailure> {
    let rules = [
        ("repetition_penalty", sampling.repetition_penalty > 0.0, sampling.repetition_penalty),
        ("presence_penalty", true, sampling.presence_penalty),
        ("frequency_penalty", true, sampling.frequency_penalty),
        ("temperature", sampling.temperature >= 0.0, sampling.temperature),
        ("top_p", sampling.top_p >= 0.0, sampling.top_p),
        ("min_p", sampling.min_p <= 1.0, sampling.min_p),
        ("typical_p", sampling.typical_p > 0.0, sampling.typical_p),
    ];
    match rules.iter().find(|(_, sound, value)| !sound || !value.is_finite()) {
        None => Ok(()),
        Some((name, _, value)) => invalid(format!("`{name}` can't be {value}")),
    }
}

fn invalid(message: String) -> Result<(), RequestFailure> {
    Err(RequestFailure::Invalid { message })
}
