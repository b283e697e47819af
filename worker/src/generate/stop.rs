//! Stop texts: where an answer ends although the model goes on.
//!
//! Pure. A stop text may be spread over tokens, so the end of what has come is held back while it
//! may be the beginning of one. The outcome is the same however the text is cut into pieces.

/// The stop texts of one request, and what is held back because of them.
#[derive(Debug, Default)]
pub(crate) struct StopTexts {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// This much is certain to be part of the answer.
    Text(String),
    /// This is the rest of the answer; a stop text came up.
    Stopped(String),
}

impl StopTexts {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            // An empty one would end every answer before it began.
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece of the answer.
    pub(crate) fn push(&mut self, piece: &str) -> Passed {
        if self.stops.is_empty() {
            return Passed::Text(piece.to_owned());
        }
        self.held.push_str(piece);
        if let Some(start) = self.first_stop() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Passed::Stopped(text);
        }
        let rest = self.held.split_off(self.held.len() - self.longest_beginning());
        Passed::Text(std::mem::replace(&mut self.held, rest))
    }

    /// The answer is over without a stop text; gives what was held back.
    pub(crate) fn finish(self) -> String {
        self.held
    }

    /// Where the stop text starts that is complete first; of two that end together, the longer.
    fn first_stop(&self) -> Option<usize> {
        let ends = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        ends.min().map(|(_, start)| start)
    }

    /// The length of the longest end of the held text that begins a stop text.
    fn longest_beginning(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest);
        let mut starts = self.held.char_indices().map(|(start, _)| start);
        let start = starts.find(|&start| {
            start >= earliest && self.stops.iter().any(|stop| stop.starts_with(&self.held[start..]))
        });
        start.map_or(0, |start| self.held.len() - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut state = StopTexts::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            match state.push(piece) {
                Passed::Text(more) => text += &more,
                Passed::Stopped(more) => return (text + &more, true),
            }
        }
        (text + &state.finish(), false)
    }

    #[test]
    fn a_stop_text_over_several_pieces_is_found_and_never_sent() {
        assert_eq!(
            run(&["\n\nUser:"], &["Hi", "\n", "\nUs", "er", ": x"]),
            ("Hi".to_owned(), true)
        );
    }

    #[test]
    fn what_only_began_like_a_stop_text_comes_out() {
        assert_eq!(run(&["abcd"], &["xab", "c", "e"]), ("xabce".to_owned(), false));
        assert_eq!(run(&["abcd"], &["xabc"]), ("xabc".to_owned(), false));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".to_owned(), true));
    }

    #[test]
    fn text_is_held_back_no_longer_than_needed() {
        let mut state = StopTexts::new(vec!["é!".to_owned()]);
        assert_eq!(state.push("caf"), Passed::Text("caf".to_owned()));
        assert_eq!(state.push("é"), Passed::Text(String::new()));
        assert_eq!(state.push("s"), Passed::Text("és".to_owned()));
    }

    #[test]
    fn the_stop_text_that_is_complete_first_counts() {
        assert_eq!(run(&["abcdef", "bc"], &["abcdef"]), ("a".to_owned(), true));
        assert_eq!(run(&["xbc", "bc"], &["axbc"]), ("a".to_owned(), true));
    }

    #[test]
    fn the_outcome_does_not_depend_on_how_text_is_cut() {
        let stops = ["aba", "bab", "cc", "bcb"];
        let text = |number: usize| -> String {
            let letter = |place: u32| ['a', 'b', 'c'][number / 3_usize.pow(place) % 3];
            (0..6).map(letter).collect()
        };
        for number in 0..3_usize.pow(6) {
            let text = text(number);
            let letters: Vec<_> = text.split("").filter(|letter| !letter.is_empty()).collect();
            assert_eq!(run(&stops, &letters), run(&stops, &[&text]), "{text}");
        }
    }

    #[test]
    fn an_empty_stop_text_stops_nothing() {
        assert_eq!(run(&[""], &["a", "b"]), ("ab".to_owned(), false));
    }
}
