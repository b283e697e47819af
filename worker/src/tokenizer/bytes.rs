//! A token → the bytes that it spells, also where they are part of a character only.
//!
//! Decoding gives whole characters; log-probabilities and grammars want to know exactly what each
//! token contributes. Vocabularies write bytes in one of two ways, and the decoder tells which.

use tokenizers::DecoderWrapper;

/// How a vocabulary writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// One printable character for each byte, as in GPT-2's vocabulary.
    ByteLevel,
    /// `▁` for a space and `<0xXX>` for a byte that is no character, as SentencePiece has it.
    SentencePiece,
    /// As it reads.
    Plain,
}

impl Spelling {
    pub(super) fn of(decoder: Option<&DecoderWrapper>) -> Self {
        match decoder {
            Some(DecoderWrapper::ByteLevel(_)) => Self::ByteLevel,
            Some(DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_)) => {
                Self::SentencePiece
            }
            Some(DecoderWrapper::Sequence(sequence)) => {
                let parts = sequence.get_decoders().iter().map(|part| Self::of(Some(part)));
                parts.into_iter().find(|spelling| *spelling != Self::Plain).unwrap_or(Self::Plain)
            }
            Some(_) | None => Self::Plain,
        }
    }

    /// The bytes of a token that the vocabulary writes as `text`.
    pub(super) fn bytes(self, text: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let mut bytes = Vec::with_capacity(text.len());
                for symbol in text.chars() {
                    match byte_of_symbol(symbol) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend(symbol.encode_utf8(&mut [0; 4]).bytes()),
                    }
                }
                bytes
            }
            Self::SentencePiece => match fallback_byte(text) {
                Some(byte) => vec![byte],
                None => text.replace('▁', " ").into_bytes(),
            },
            Self::Plain => text.as_bytes().to_vec(),
        }
    }
}

/// `<0xXX>` → the byte.
fn fallback_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// GPT-2's printable stand-in → the byte: printable ones of Latin-1 stand for themselves, the
/// others follow one another from U+0100 on.
fn byte_of_symbol(symbol: char) -> Option<u8> {
    let is_plain = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(symbol);
    match u8::try_from(code) {
        Ok(byte) => is_plain(byte).then_some(byte),
        Err(_) => {
            let place = usize::try_from(code - 0x100).ok()?;
            (0..=u8::MAX).filter(|&byte| !is_plain(byte)).nth(place)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_symbols_stand_for_their_bytes() {
        let bytes = |text| Spelling::ByteLevel.bytes(text);
        assert_eq!(bytes("Ġthe"), b" the");
        assert_eq!(bytes("Ċ"), b"\n");
        assert_eq!(bytes("Ã©"), "é".as_bytes());
        assert_eq!(bytes("âĤ"), [0xe2, 0x82]);
        // The last of the stand-ins, and what no vocabulary of this kind would hold.
        assert_eq!(bytes("Ńń€"), [&[0xad][..], "ń€".as_bytes()].concat());
        // Every byte has exactly one stand-in.
        let mut all: Vec<_> = (0..0x144).filter_map(char::from_u32).collect();
        all.retain(|&symbol| byte_of_symbol(symbol).is_some());
        let mut back: Vec<_> = all.iter().filter_map(|&symbol| byte_of_symbol(symbol)).collect();
        back.sort_unstable();
        assert_eq!(back, (0..=u8::MAX).collect::<Vec<_>>());
    }

    #[test]
    fn sentencepiece_tokens_are_bytes_or_words_with_spaces() {
        let bytes = |text| Spelling::SentencePiece.bytes(text);
        assert_eq!(bytes("▁the▁"), b" the ");
        assert_eq!(bytes("<0xE2>"), [0xe2]);
        assert_eq!(bytes("<0xE2"), b"<0xE2");
    }
}
