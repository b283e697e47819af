//! One call as models write it: a JSON object with a name and arguments.
//!
//! Pure. The name may come after the arguments, then these wait for it; otherwise arguments go out
//! as they come.

use std::sync::Arc;

use super::json::{Invalid, Scanner, Status, is_space};

/// What a call brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// The name: there is no way back from here.
    Begun(String),
    Arguments(String),
}

/// Reads one call.
#[derive(Debug, Clone)]
pub(super) struct CallReader {
    names: Arc<[String]>,
    state: State,
    name: Option<String>,
    arguments: Arguments,
}

#[derive(Debug, Clone)]
enum State {
    /// The object has not begun.
    Before,
    Key {
        scanner: Scanner,
        text: String,
        /// Whether the object may end instead.
        first: bool,
    },
    Colon {
        key: String,
    },
    Value {
        key: String,
        scanner: Scanner,
        text: String,
    },
    CommaOrEnd,
    /// Nothing but the arguments is to come, because the name stood before the object.
    Alone(Scanner),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Arguments {
    Missing,
    /// They came before the name.
    Waiting(String),
    /// They are out, or on their way.
    Told,
}

impl CallReader {
    /// A call that is an object; only these names are tools.
    pub(super) fn object(names: Arc<[String]>) -> Self {
        Self { names, state: State::Before, name: None, arguments: Arguments::Missing }
    }

    /// The arguments of a call whose name has been read.
    pub(super) fn arguments(name: String, names: Arc<[String]>) -> Self {
        let state = State::Alone(Scanner::default());
        Self { names, state, name: Some(name), arguments: Arguments::Told }
    }

    /// Whether the name is out, so that what came is a call and no text.
    pub(super) fn has_begun(&self) -> bool {
        self.name.is_some() && self.arguments == Arguments::Told
    }

    /// Takes the next character; says whether the call is over.
    ///
    /// # Errors
    /// [`Invalid`]: this is no call of a tool.
    pub(super) fn push(&mut self, character: char, news: &mut Vec<News>) -> Result<bool, Invalid> {
        match &mut self.state {
            State::Before => match character {
                '{' => self.state = key(true),
                _ if is_space(character) => {}
                _ => return Err(Invalid),
            },
            State::Key { text, first: true, .. } if text.is_empty() && character == '}' => {
                return Err(Invalid);
            }
            State::Key { scanner, text, .. } => {
                if text.is_empty() && is_space(character) {
                    return Ok(false);
                }
                if text.is_empty() && character != '"' {
                    return Err(Invalid);
                }
                text.push(character);
                if scanner.push(character)? == Status::Over {
                    let key = serde_json::from_str(text).map_err(|_error| Invalid)?;
                    self.state = State::Colon { key };
                }
            }
            State::Colon { key } => match character {
                ':' => {
                    let key = std::mem::take(key);
                    self.state =
                        State::Value { key, scanner: Scanner::default(), text: String::new() };
                }
                _ if is_space(character) => {}
                _ => return Err(Invalid),
            },
            State::Value { .. } => return self.value(character, news),
            State::CommaOrEnd => match character {
                ',' => self.state = key(false),
                '}' => return self.close(news),
                _ if is_space(character) => {}
                _ => return Err(Invalid),
            },
            State::Alone(scanner) => {
                let status = scanner.push(character)?;
                news.push(News::Arguments(character.to_string()));
                return Ok(status != Status::GoesOn);
            }
        }
        Ok(false)
    }

    fn value(&mut self, character: char, news: &mut Vec<News>) -> Result<bool, Invalid> {
        let State::Value { key, scanner, text } = &mut self.state else {
            return Err(Invalid);
        };
        if text.is_empty() && is_space(character) {
            return Ok(false);
        }
        let status = scanner.push(character)?;
        if status != Status::OverBefore {
            text.push(character);
        }
        let is_arguments = matches!(key.as_str(), "arguments" | "parameters");
        // As they come, if the name is known; they are an object from their first character on.
        if is_arguments && text.starts_with('{') {
            if text.len() == 1 && self.arguments != Arguments::Missing {
                return Err(Invalid);
            }
            match &self.name {
                Some(name) if text.len() == 1 => {
                    news.push(News::Begun(name.clone()));
                    news.push(News::Arguments(text.clone()));
                    self.arguments = Arguments::Told;
                }
                Some(_) => news.push(News::Arguments(character.to_string())),
                None => {}
            }
        }
        if status == Status::GoesOn {
            return Ok(false);
        }
        let (key, text) = (std::mem::take(key), std::mem::take(text));
        self.state = State::CommaOrEnd;
        self.value_is_over(&key, &text, news)?;
        match status {
            Status::OverBefore => self.push(character, news),
            Status::Over | Status::GoesOn => Ok(false),
        }
    }

    fn value_is_over(
        &mut self,
        key: &str,
        text: &str,
        news: &mut Vec<News>,
    ) -> Result<(), Invalid> {
        match key {
            "name" if self.name.is_none() => {
                let name: String = serde_json::from_str(text).map_err(|_error| Invalid)?;
                if !self.names.contains(&name) {
                    return Err(Invalid);
                }
                if let Arguments::Waiting(arguments) = &mut self.arguments {
                    let arguments = std::mem::take(arguments);
                    self.tell(name.clone(), arguments, news);
                }
                self.name = Some(name);
            }
            "arguments" | "parameters" if self.arguments == Arguments::Missing => {
                let arguments = object_in(text)?;
                match self.name.clone() {
                    Some(name) => self.tell(name, arguments, news),
                    None => self.arguments = Arguments::Waiting(arguments),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self, news: &mut Vec<News>) -> Result<bool, Invalid> {
        let name = self.name.clone().ok_or(Invalid)?;
        if self.arguments == Arguments::Missing {
            self.tell(name, "{}".to_owned(), news);
        }
        Ok(true)
    }

    fn tell(&mut self, name: String, arguments: String, news: &mut Vec<News>) {
        news.push(News::Begun(name));
        news.push(News::Arguments(arguments));
        self.arguments = Arguments::Told;
    }
}

fn key(first: bool) -> State {
    State::Key { scanner: Scanner::default(), text: String::new(), first }
}

/// The arguments as an object: some models write them as a string, or `null` for none.
fn object_in(text: &str) -> Result<String, Invalid> {
    let inner: serde_json::Value = serde_json::from_str(text).map_err(|_error| Invalid)?;
    match inner {
        serde_json::Value::Object(_) => Ok(text.to_owned()),
        serde_json::Value::Null => Ok("{}".to_owned()),
        serde_json::Value::String(inner) => {
            let parsed: Result<serde_json::Map<String, serde_json::Value>, _> =
                serde_json::from_str(&inner);
            parsed.map(|_object| inner).map_err(|_error| Invalid)
        }
        _ => Err(Invalid),
    }
}
