//! OpenAI's dialect: request JSON → the shared request; replies → response JSON.
//!
//! One file per endpoint, and what several share: `decoding`, `format` and `thinking` read what all
//! generating endpoints have, and `fields` says what becomes of those of the others.

pub mod chat;
pub mod completions;
pub mod responses;
pub mod embeddings;
pub mod rerank;
pub mod tokenize;
pub mod models;
pub mod openapi;
mod decoding;
mod fields;
mod format;
mod thinking;
mod usage;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::tests::check_page;

    #[test]
    fn the_documentation_says_what_the_tables_say() {
        let tables = [
            ("chat", chat::FIELDS),
            ("completions", completions::FIELDS),
            ("responses", responses::FIELDS),
            ("counting", responses::COUNTED),
            ("embeddings", fields::EMBEDDINGS),
            ("rerank with documents", fields::RERANK),
            ("rerank with texts", fields::RERANK_TEXTS),
            ("tokenize", fields::TOKENIZE),
            ("detokenize", fields::DETOKENIZE),
        ];
        check_page("compatibility.md", &tables);
    }
}
