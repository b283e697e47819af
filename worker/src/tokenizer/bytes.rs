//! What a single token spells, as bytes.
//!
//! Decoding gives text for several tokens together; whoever looks at one token alone (a grammar's
//! mask, a token's probability) needs its bytes, which may be half a character. They follow from
//! the token's text in the vocabulary and from the kind of decoder.

use tokenizers::{Decoder, DecoderWrapper};

use super::Tokenizer;

/// How a vocabulary writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// One printable character for each byte, as GPT-2 does.
    Characters,
    /// Text; perhaps with a sign for spaces, and bytes that are no text as `<0xXX>`.
    Text { space: Option<char>, bytes: bool },
}

/// SentencePiece's sign for a space.
const SPACE: char = '\u{2581}';

impl Tokenizer {
    /// One more than the highest id.
    pub(crate) fn vocabulary_length(&self) -> usize {
        let highest = self.inner.get_vocab(true).into_values().max();
        highest.map_or(0, |id| usize::try_from(id).unwrap_or(usize::MAX).saturating_add(1))
    }

    /// The bytes that a token stands for; of a special one its name. Empty for ids that are none.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        if let Some(token) = self.inner.get_added_vocabulary().simple_id_to_token(id) {
            return token.into_bytes();
        }
        match self.inner.id_to_token(id) {
            Some(token) => self.spelling.bytes(&token),
            None => Vec::new(),
        }
    }
}

impl Spelling {
    /// How the vocabulary of this decoder is written.
    pub(super) fn of(decoder: Option<&DecoderWrapper>) -> Self {
        let plain = Self::Text { space: None, bytes: false };
        let steps = match decoder {
            None => return plain,
            Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
            Some(single) => std::slice::from_ref(single),
        };
        steps.iter().fold(plain, |spelling, step| match (step, spelling) {
            (DecoderWrapper::ByteLevel(_), _) | (_, Self::Characters) => Self::Characters,
            (DecoderWrapper::ByteFallback(_), Self::Text { space, .. }) => {
                Self::Text { space, bytes: true }
            }
            (DecoderWrapper::Metaspace(metaspace), Self::Text { bytes, .. }) => {
                Self::Text { space: Some(metaspace.get_replacement()), bytes }
            }
            (DecoderWrapper::Replace(replace), Self::Text { space, bytes }) => {
                let decoded = replace.decode_chain(vec![SPACE.to_string()]);
                let is_sign = decoded.is_ok_and(|texts| texts == [" "]);
                Self::Text { space: if is_sign { Some(SPACE) } else { space }, bytes }
            }
            (_, spelling) => spelling,
        })
    }

    fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Self::Characters => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
                // Words that were put into such a vocabulary by hand may be written as they are.
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Self::Text { space, bytes } => {
                if let Some(byte) = bytes.then(|| fallback_byte(token)).flatten() {
                    return vec![byte];
                }
                match space {
                    Some(sign) => token.replace(sign, " ").into_bytes(),
                    None => token.as_bytes().to_vec(),
                }
            }
        }
    }
}

/// The byte that a token of the form `<0xXX>` stands for.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's printable characters: most stand for themselves, the others follow from 256 on.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    if stands_for_itself(code) {
        return u8::try_from(code).ok();
    }
    let place = usize::try_from(code.checked_sub(256)?).ok()?;
    (0..=u8::MAX).filter(|&byte| !stands_for_itself(u32::from(byte))).nth(place)
}

fn stands_for_itself(code: u32) -> bool {
    matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(decoder: &serde_json::Value, words: &[&str]) -> Tokenizer {
        let vocabulary: serde_json::Map<_, _> =
            words.iter().zip(0..).map(|(&word, id)| (word.to_owned(), id.into())).collect();
        let special = serde_json::json!({
            "id": words.len(), "content": "<|é|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        });
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
            "added_tokens": [special],
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        });
        Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn byte_level_tokens_spell_their_bytes() {
        let decoder = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        let tokenizer = tokenizer(&decoder, &["Ġa", "Ã", "Ċ", "Ń", "中"]);
        let spelled: Vec<_> = (0..5).map(|id| tokenizer.bytes(id)).collect();
        let expected: [&[u8]; 5] = [b" a", b"\xc3", b"\n", b"\xad", "中".as_bytes()];
        assert_eq!(spelled, expected);
        assert_eq!(tokenizer.bytes(5), "<|é|>".as_bytes());
        assert_eq!(tokenizer.bytes(6), b"");
        assert_eq!(tokenizer.vocabulary_length(), 6);
    }

    #[test]
    fn sentencepiece_tokens_spell_spaces_and_bytes() {
        let decoder = serde_json::json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]});
        let tokenizer = tokenizer(&decoder, &["▁a▁b", "<0xE2>", "<0xG2>", "é"]);
        let spelled: Vec<_> = (0..4).map(|id| tokenizer.bytes(id)).collect();
        let expected: [&[u8]; 4] = [b" a b", b"\xe2", b"<0xG2>", "é".as_bytes()];
        assert_eq!(spelled, expected);
    }

    #[test]
    fn a_metaspace_decoder_names_its_own_sign() {
        let decoder = serde_json::json!({
            "type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": false,
        });
        assert_eq!(tokenizer(&decoder, &["_a▁"]).bytes(0), " a▁".as_bytes());
    }
}
