//! What a worker still owes a request. Pure.

use hearth_shared::protocol::Work;

use super::Reply;

/// The answer that a request waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owed {
    /// The choices that have not finished.
    Choices(Vec<u32>),
    Embeddings,
    Scores,
    Tokens,
    Text,
}

impl Owed {
    pub(super) fn by(work: &Work) -> Self {
        match work {
            Work::Generate(generate) => Self::Choices((0..generate.choices).collect()),
            Work::Embed(_) => Self::Embeddings,
            Work::Rerank(_) => Self::Scores,
            Work::Tokenize(_) => Self::Tokens,
            Work::Detokenize(_) => Self::Text,
        }
    }

    /// Takes a reply in; gives whether it was the last, `None` if it is not what was asked for.
    pub(super) fn pay(&mut self, reply: &Reply) -> Option<bool> {
        match (self, reply) {
            (_, Reply::Failed(_)) => Some(true),
            (Self::Choices(open), Reply::News(news)) => {
                let place = open.iter().position(|choice| *choice == news.choice)?;
                if news.finish.is_some() {
                    open.swap_remove(place);
                }
                Some(open.is_empty())
            }
            (Self::Embeddings, Reply::Embeddings { last, .. })
            | (Self::Scores, Reply::Scores { last, .. }) => Some(*last),
            (Self::Tokens, Reply::Tokens(_)) | (Self::Text, Reply::Text(_)) => Some(true),
            (
                Self::Choices(_) | Self::Embeddings | Self::Scores | Self::Tokens | Self::Text,
                Reply::News(_)
                | Reply::Embeddings { .. }
                | Reply::Scores { .. }
                | Reply::Tokens(_)
                | Reply::Text(_),
            ) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_shared::ids::RequestId;
    use hearth_shared::protocol::{Finish, FinishReason, Generate, News, Prompt};

    use super::*;

    fn news(choice: u32, over: bool) -> Reply {
        let finish = Finish {
            reason: FinishReason::Stop,
            prompt_tokens: 1,
            cached_tokens: 0,
            completion_tokens: 1,
            reasoning_tokens: 0,
            prefill_us: 0,
            decode_us: 0,
        };
        Reply::News(News {
            id: RequestId(1),
            choice,
            parts: Vec::new(),
            tokens: 1,
            logprobs: Vec::new(),
            context: Vec::new(),
            finish: over.then_some(finish),
        })
    }

    #[test]
    fn a_generation_is_over_when_every_choice_is() {
        let generate = Generate { choices: 2, ..Generate::new(Prompt::raw("x")) };
        let mut owed = Owed::by(&Work::Generate(Box::new(generate)));
        assert_eq!(owed.pay(&news(0, false)), Some(false));
        assert_eq!(owed.pay(&news(0, true)), Some(false));
        assert_eq!(owed.pay(&news(0, false)), None, "that choice was over");
        assert_eq!(owed.pay(&news(2, false)), None, "there is no such choice");
        assert_eq!(owed.pay(&news(1, true)), Some(true));
    }

    #[test]
    fn an_answer_of_another_kind_is_none() {
        let mut owed = Owed::by(&Work::Detokenize(vec![1]));
        assert_eq!(owed.pay(&news(0, true)), None);
        assert_eq!(owed.pay(&Reply::Text("x".to_owned())), Some(true));
    }
}
