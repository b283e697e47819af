//! Filling in the middle: what stands before and after a gap → the prompt that models trained for it
//! expect. Pure.
//!
//! Every family has three tokens of its own for it, and a model whose tokenizer has none of these sets
//! was not trained to: a prompt made up for it would be answered with anything.

use hearth_shared::protocol::RequestFailure;

use crate::tokenizer::Tokenizer;

/// A family's tokens: before the prefix, before the suffix, before what is to be filled in.
struct Marks {
    prefix: &'static str,
    suffix: &'static str,
    middle: &'static str,
}

const FAMILIES: [Marks; 3] = [
    // Qwen 2.5 and later, CodeGemma.
    Marks { prefix: "<|fim_prefix|>", suffix: "<|fim_suffix|>", middle: "<|fim_middle|>" },
    // StarCoder, SantaCoder.
    Marks { prefix: "<fim_prefix>", suffix: "<fim_suffix>", middle: "<fim_middle>" },
    // DeepSeek Coder marks the gap itself and then the end.
    Marks {
        prefix: "<｜fim▁begin｜>", suffix: "<｜fim▁hole｜>", middle: "<｜fim▁end｜>"
    },
];

/// What such models write at the end of a middle, beside their usual end.
const ENDS: [&str; 4] = ["<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>"];

/// The prompt with the tokens of the model's family in their places.
///
/// # Errors
/// [`RequestFailure::Unsupported`] if it has none.
pub(super) fn prompt(
    tokenizer: &Tokenizer,
    before: &str,
    after: &str,
) -> Result<String, RequestFailure> {
    let Some(Marks { prefix, suffix, middle }) = marks(tokenizer) else {
        let message = "this model can't fill in a middle: its tokenizer has no tokens for it; \
                       leave `suffix` out"
            .to_owned();
        return Err(RequestFailure::Unsupported { message });
    };
    Ok(format!("{prefix}{before}{suffix}{after}{middle}"))
}

/// Tokens that end a middle.
pub(super) fn ends(tokenizer: &Tokenizer) -> Vec<u32> {
    let own = marks(tokenizer).map(|marks| [marks.prefix, marks.suffix, marks.middle]);
    ENDS.into_iter().chain(own.into_iter().flatten()).filter_map(|end| tokenizer.id(end)).collect()
}

fn marks(tokenizer: &Tokenizer) -> Option<&'static Marks> {
    FAMILIES.iter().find(|Marks { prefix, suffix, middle }| {
        [prefix, suffix, middle].into_iter().all(|mark| tokenizer.id(mark).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(added: &[&str]) -> Tokenizer {
        let added: Vec<_> = (2..)
            .zip(added)
            .map(|(id, content)| {
                serde_json::json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true,
                })
            })
            .collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "pre_tokenizer": null, "decoder": null, "post_processor": null,
            "added_tokens": added,
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
        });
        Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_family_is_known_by_its_tokens_and_they_end_the_middle() {
        let qwen = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];
        let qwen = tokenizer(&qwen);
        let prompt = prompt(&qwen, "a", "b").unwrap();
        assert_eq!(prompt, "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>");
        assert_eq!(qwen.encode(&prompt).unwrap(), [3, 0, 4, 1, 5]);
        assert_eq!(ends(&qwen), [2, 3, 4, 5]);
    }

    #[test]
    fn a_model_without_them_says_so() {
        let two_of_three = tokenizer(&["<fim_prefix>", "<fim_suffix>"]);
        let message = "this model can't fill in a middle: its tokenizer has no tokens for it; leave \
                       `suffix` out";
        assert_eq!(
            prompt(&two_of_three, "a", "b"),
            Err(RequestFailure::Unsupported { message: message.to_owned() })
        );
    }
}
