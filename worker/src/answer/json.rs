//! One JSON value, character by character: whether it is sound so far, and where it ends.
//!
//! Pure. Strict as JSON is, so that what passes can be parsed by anyone.

/// Arrays and objects within each other.
const DEPTH_MAX: usize = 64;
/// A number; longer ones nobody means.
const SCALAR_BYTES_MAX: usize = 512;

/// Reads one value.
#[derive(Debug, Clone, Default)]
pub(super) struct Scanner {
    /// What is open, from the outside in.
    open: Vec<Container>,
    expect: Expect,
    inside: Inside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Array,
    Object,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expect {
    #[default]
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Inside {
    #[default]
    Nothing,
    Text {
        key: bool,
        escape: Escape,
    },
    Scalar(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    /// So many hexadecimal digits are to come.
    Digits(u8),
}

/// How far the value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    GoesOn,
    /// The character was its last one.
    Over,
    /// It was over before this character.
    OverBefore,
}

/// No JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid;

impl Scanner {
    /// Takes the next character.
    ///
    /// # Errors
    /// [`Invalid`]: no value begins like this.
    pub(super) fn push(&mut self, character: char) -> Result<Status, Invalid> {
        match &mut self.inside {
            Inside::Text { key, escape } => {
                if text(escape, character)? {
                    let key = *key;
                    self.inside = Inside::Nothing;
                    return Ok(self.ended(if key { Expect::Colon } else { Expect::CommaOrEnd }));
                }
                return Ok(Status::GoesOn);
            }
            Inside::Scalar(scalar) if is_scalar(character) => {
                scalar.push(character);
                let fits = scalar.len() <= SCALAR_BYTES_MAX;
                return if fits { Ok(Status::GoesOn) } else { Err(Invalid) };
            }
            Inside::Scalar(scalar) => {
                serde_json::from_str::<serde_json::Value>(scalar).map_err(|_error| Invalid)?;
                self.inside = Inside::Nothing;
                if self.ended(Expect::CommaOrEnd) == Status::Over {
                    return Ok(Status::OverBefore);
                }
            }
            Inside::Nothing => {}
        }
        self.structure(character)
    }

    fn structure(&mut self, character: char) -> Result<Status, Invalid> {
        if is_space(character) {
            return Ok(Status::GoesOn);
        }
        let innermost = self.open.last().copied();
        match (character, self.expect) {
            ('{', Expect::Value | Expect::ValueOrEnd) => {
                self.enter(Container::Object, Expect::KeyOrEnd)
            }
            ('[', Expect::Value | Expect::ValueOrEnd) => {
                self.enter(Container::Array, Expect::ValueOrEnd)
            }
            ('"', Expect::Value | Expect::ValueOrEnd) => Ok(self.begin_text(false)),
            ('"', Expect::Key | Expect::KeyOrEnd) => Ok(self.begin_text(true)),
            ('}', Expect::KeyOrEnd) => Ok(self.leave()),
            (']', Expect::ValueOrEnd) => Ok(self.leave()),
            ('}', Expect::CommaOrEnd) if innermost == Some(Container::Object) => Ok(self.leave()),
            (']', Expect::CommaOrEnd) if innermost == Some(Container::Array) => Ok(self.leave()),
            (',', Expect::CommaOrEnd) => {
                let in_object = innermost == Some(Container::Object);
                self.expect = if in_object { Expect::Key } else { Expect::Value };
                Ok(Status::GoesOn)
            }
            (':', Expect::Colon) => {
                self.expect = Expect::Value;
                Ok(Status::GoesOn)
            }
            (_, Expect::Value | Expect::ValueOrEnd) if is_scalar(character) => {
                self.inside = Inside::Scalar(character.to_string());
                Ok(Status::GoesOn)
            }
            _ => Err(Invalid),
        }
    }

    fn begin_text(&mut self, key: bool) -> Status {
        self.inside = Inside::Text { key, escape: Escape::None };
        Status::GoesOn
    }

    fn enter(&mut self, container: Container, expect: Expect) -> Result<Status, Invalid> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Invalid);
        }
        self.open.push(container);
        self.expect = expect;
        Ok(Status::GoesOn)
    }

    fn leave(&mut self) -> Status {
        self.open.pop();
        self.ended(Expect::CommaOrEnd)
    }

    /// A part of it is over: perhaps the whole.
    fn ended(&mut self, expect: Expect) -> Status {
        self.expect = expect;
        if self.open.is_empty() { Status::Over } else { Status::GoesOn }
    }
}

/// Whether the character ends the string that it stands in.
fn text(escape: &mut Escape, character: char) -> Result<bool, Invalid> {
    *escape = match (*escape, character) {
        (Escape::None, '"') => return Ok(true),
        (Escape::None, '\\') => Escape::Begun,
        (Escape::None, '\0'..='\u{1f}') => return Err(Invalid),
        (Escape::None, _) => Escape::None,
        (Escape::Begun, 'u') => Escape::Digits(4),
        (Escape::Begun, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Escape::None,
        (Escape::Digits(1), '0'..='9' | 'a'..='f' | 'A'..='F') => Escape::None,
        (Escape::Digits(more), '0'..='9' | 'a'..='f' | 'A'..='F') => Escape::Digits(more - 1),
        (Escape::Begun | Escape::Digits(_), _) => return Err(Invalid),
    };
    Ok(false)
}

pub(super) fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// What numbers and the words `true`, `false` and `null` are made of.
fn is_scalar(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '+' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the value in the text ends; `Err` says how much of it was sound.
    fn end(text: &str) -> Result<usize, usize> {
        let mut scanner = Scanner::default();
        for (at, character) in text.char_indices() {
            match scanner.push(character) {
                Ok(Status::GoesOn) => {}
                Ok(Status::Over) => return Ok(at + character.len_utf8()),
                Ok(Status::OverBefore) => return Ok(at),
                Err(Invalid) => return Err(at),
            }
        }
        Err(text.len())
    }

    #[test]
    fn values_end_where_they_end() {
        let values = [
            "{}",
            "[]",
            r#"{"a": {"b": [1, -2.5e+3, "x\"]}", true, null]}, "é\u00e9\\": {}}"#,
            r#""text, \n""#,
            "[[], {}, [0]]",
        ];
        for value in values {
            serde_json::from_str::<serde_json::Value>(value).unwrap();
            assert_eq!(end(&format!("{value} rest")), Ok(value.len()), "{value}");
        }
        assert_eq!(end("12,"), Ok(2));
        assert_eq!(end(" false}"), Ok(6));
    }

    #[test]
    fn what_is_no_json_is_noticed_at_once() {
        let cases = [
            ("{a", 1),
            ("[1,]", 3),
            ("{\"a\" 1", 5),
            ("{\"a\": 1,}", 8),
            ("[1}", 2),
            ("\"\n", 1),
            ("\"\\x", 2),
            ("\"\\u12g", 5),
            ("[01]", 3),
            ("[tru]", 4),
            ("]", 0),
        ];
        for (text, sound) in cases {
            assert_eq!(end(text), Err(sound), "{text}");
        }
    }

    #[test]
    fn depth_has_an_end() {
        assert_eq!(end(&"[".repeat(100)), Err(64));
    }
}
