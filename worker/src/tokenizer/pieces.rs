//! An answer's text, token by token, in pieces that are whole characters.
//!
//! A character may be spread over several tokens, and what a token says may depend on the one
//! before it (a leading space). So the tokens since the last clean boundary are decoded together,
//! with those of the boundary before as context, and trailing U+FFFD are held back: they may be a
//! character that isn't over yet. All pieces and the rest add up to the whole decoding.

use super::Tokenizer;

/// How many U+FFFD an unfinished character decodes to at most: it lacks at least one of four
/// bytes, and decoders write one for all that is there or one for each byte.
const UNFINISHED_MAX: usize = 3;

/// The state of one answer.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// Tokens whose text is out; decoded again as context for what follows.
    context: Vec<u32>,
    /// Tokens after those.
    pending: Vec<u32>,
    /// How many bytes of the pending tokens' text are out already.
    emitted: usize,
}

impl Pieces {
    /// Takes the next token; gives the text that is certain now.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if tokenizer.is_hidden(id) {
            return String::new();
        }
        self.pending.push(id);
        let text = self.pending_text(tokenizer);
        let mut certain = text.as_str();
        for _ in 0..UNFINISHED_MAX {
            certain = certain.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(certain);
        }
        let piece = certain.get(self.emitted..).unwrap_or_default().to_owned();
        self.emitted += piece.len();
        if certain.len() == text.len() && !text.is_empty() {
            self.context = std::mem::take(&mut self.pending);
            self.emitted = 0;
        }
        piece
    }

    /// The answer is over; gives what was held back.
    pub(crate) fn finish(self, tokenizer: &Tokenizer) -> String {
        let text = self.pending_text(tokenizer);
        text.get(self.emitted..).unwrap_or_default().to_owned()
    }

    fn pending_text(&self, tokenizer: &Tokenizer) -> String {
        if self.context.is_empty() {
            return tokenizer.decode(&self.pending);
        }
        let before = tokenizer.decode(&self.context);
        let all = tokenizer.decode(&[self.context.as_slice(), &self.pending].concat());
        match all.strip_prefix(&before) {
            Some(text) => text.to_owned(),
            // A decoder that rewrites what went before; its own text is the best there is.
            None => tokenizer.decode(&self.pending),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte-level BPE without merges: one token per byte, and one special token.
    fn byte_level() -> Tokenizer {
        let mut vocabulary = serde_json::Map::new();
        for (id, symbol) in byte_symbols().into_iter().enumerate() {
            vocabulary.insert(symbol.to_string(), id.into());
        }
        tokenizer(&serde_json::json!({
            "added_tokens": [special_token(256)],
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        }))
    }

    /// As Llama 2's: `▁` for spaces, bytes as `<0xXX>`, the first space stripped.
    fn sentence_piece() -> Tokenizer {
        let mut vocabulary = serde_json::Map::new();
        let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
        let words = ["▁a", "▁b", "c"].map(str::to_owned);
        for (id, symbol) in bytes.chain(words).enumerate() {
            vocabulary.insert(symbol, id.into());
        }
        tokenizer(&serde_json::json!({
            "added_tokens": [special_token(259)],
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": true},
        }))
    }

    fn special_token(id: u32) -> serde_json::Value {
        serde_json::json!({
            "id": id, "content": "<|s|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    }

    fn tokenizer(rest: &serde_json::Value) -> Tokenizer {
        let mut whole = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
        });
        for (key, value) in rest.as_object().unwrap() {
            whole[key] = value.clone();
        }
        Tokenizer::from_json(whole.to_string().as_bytes()).unwrap()
    }

    /// GPT-2's printable stand-ins for the 256 bytes, in the order of the bytes.
    fn byte_symbols() -> Vec<char> {
        let plain = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 256;
        let symbol = |byte: u32| {
            let code = if plain(&byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap()
        };
        (0..256).map(symbol).collect()
    }

    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut state = Pieces::default();
        let mut pieces: Vec<_> = ids.iter().map(|&id| state.push(tokenizer, id)).collect();
        pieces.push(state.finish(tokenizer));
        pieces
    }

    fn ids_of(bytes: &[u8]) -> Vec<u32> {
        bytes.iter().map(|&byte| u32::from(byte)).collect()
    }

    #[test]
    fn a_character_comes_out_whole_with_its_last_byte() {
        let ids = ids_of("aé€😀".as_bytes());
        let expected = ["a", "", "é", "", "", "€", "", "", "", "😀", ""];
        assert_eq!(pieces(&byte_level(), &ids), expected);
    }

    #[test]
    fn stray_bytes_become_one_replacement_character_per_invalid_part() {
        let tokenizer = byte_level();
        for bytes in [
            &b"\xe2\x82"[..],
            b"a\xe2\x82b",
            b"\xff\xfe\xe2\x82\xac\xe2\xe2",
            b"\xf0\x9f\x98\xf0\x9f\x98\x80!",
            b"\x80\x80\x80",
        ] {
            let expected = String::from_utf8_lossy(bytes);
            assert_eq!(pieces(&tokenizer, &ids_of(bytes)).concat(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn any_bytes_add_up_to_their_lossy_decoding() {
        let tokenizer = byte_level();
        // Bytes that UTF-8 cares about, in every order of length four.
        let alphabet = [b'a', 0x80, 0xbf, 0xc3, 0xe2, 0xed, 0xf0, 0xf4, 0xff];
        for number in 0..alphabet.len().pow(4) {
            let digit = |place: u32| alphabet[number / alphabet.len().pow(place) % alphabet.len()];
            let bytes = [digit(0), digit(1), digit(2), digit(3)];
            let expected = String::from_utf8_lossy(&bytes);
            assert_eq!(pieces(&tokenizer, &ids_of(&bytes)).concat(), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn only_the_first_leading_space_is_stripped_also_across_special_tokens() {
        let tokenizer = sentence_piece();
        let (a, b, c, special) = (256, 257, 258, 259);
        let ids = [a, b, special, special, b, c, 0xe2, 0x82, 0xac, a];
        assert_eq!(pieces(&tokenizer, &ids).concat(), "a b bc€ a");
        assert_eq!(pieces(&tokenizer, &ids)[..2], ["a", " b"]);
    }

    #[test]
    fn text_after_bytes_that_never_become_a_character_still_comes() {
        let tokenizer = sentence_piece();
        assert_eq!(
            pieces(&tokenizer, &[256, 0xff, 0xe2, 0x82, 257]).concat(),
            "a\u{fffd}\u{fffd}\u{fffd} b"
        );
        // The library would take the whole character back once it sees the stray byte.
        assert_eq!(pieces(&tokenizer, &[0xe2, 0x82, 0xac, 0xff]).concat(), "€\u{fffd}");
    }

    #[test]
    fn ids_beyond_the_vocabulary_say_nothing() {
        assert_eq!(pieces(&byte_level(), &[97, 70_000, 98]).concat(), "ab");
    }
}
