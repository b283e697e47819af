//! How likely tokens were, for requests that ask for it.
//!
//! Pure. Probabilities are the model's own: taken before any sampling rule has touched the logits,
//! so the numbers of a token don't depend on how it was chosen.

use hearth_shared::protocol::{Token, TokenLogprob};

use super::select::{Candidate, best, largest, log_sum_exp, rounded};
use crate::tokenizer::Tokenizer;

/// The logits of one step, kept until the token is known.
#[derive(Debug)]
pub(crate) struct Logprobs {
    /// How many of the likeliest tokens to tell.
    top: usize,
    /// Kept from step to step, so that a step allocates nothing for it.
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Logprobs {
    pub(crate) fn new(top: usize) -> Self {
        Self { top, logits: Vec::new(), candidates: Vec::new() }
    }

    /// Remembers the logits before the sampler changes them.
    pub(crate) fn observe(&mut self, logits: &[f32]) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
    }

    /// How likely `token` was among what was [observed](Self::observe).
    pub(crate) fn of(&mut self, token: u32, tokenizer: &Tokenizer) -> TokenLogprob {
        let spelled = |id: u32| Token { id, bytes: tokenizer.bytes(id) };
        let whole = log_sum_exp(&self.logits, largest(&self.logits).min(f32::MAX));
        let logprob = |logit: f32| rounded(f64::from(logit.min(f32::MAX)) - whole);
        let chosen = usize::try_from(token).ok().and_then(|id| self.logits.get(id));
        best(&self.logits, self.top, &mut self.candidates);
        let top = self.candidates.iter().map(|best| (spelled(best.id), logprob(best.weight)));
        TokenLogprob {
            logprob: chosen.map_or(f32::NEG_INFINITY, |&logit| logprob(logit)),
            top: top.collect(),
            token: spelled(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_models_own_and_the_best_come_first() {
        let tokenizer = Tokenizer::from_json(
            br#"{"version":"1.0","truncation":null,"padding":null,"normalizer":null,
                "pre_tokenizer":null,"post_processor":null,"decoder":{"type":"ByteLevel",
                "add_prefix_space":false,"trim_offsets":true,"use_regex":true},"added_tokens":[],
                "model":{"type":"BPE","vocab":{"a":0,"\u0120b":1,"\u00c3":2,"d":3},"merges":[]}}"#,
        )
        .unwrap();
        let mut logprobs = Logprobs::new(2);
        logprobs.observe(&[0.1_f32, 0.5, 0.4, 0.0].map(f32::ln));
        let told = logprobs.of(2, &tokenizer);
        let close = |found: f32, share: f32| (found - share.ln()).abs() < 1e-6;
        assert_eq!(told.token, Token { id: 2, bytes: vec![0xc3] });
        assert!(close(told.logprob, 0.4), "{told:?}");
        let [(first, p), (second, q)] = &told.top[..] else { panic!("{told:?}") };
        assert_eq!((first.id, first.bytes.as_slice(), second.id), (1, &b" b"[..], 2));
        assert!(close(*p, 0.5) && close(*q, 0.4), "{told:?}");
        // A shift of all logits changes no probability; one that is impossible is not told.
        logprobs.observe(&[1e4, f32::NEG_INFINITY, f32::NAN, f32::NEG_INFINITY]);
        let told = logprobs.of(0, &tokenizer);
        assert_eq!((told.logprob, told.top.len()), (0.0, 1));
    }
}
