//! What an encoder's session takes and gives, read from the session.
//!
//! What can't be fed is refused here, with its name; so is an output that can't be read.

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::model::{ModelError, Task};

/// An encoder's inputs and its one output that counts.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) inputs: Vec<Input>,
    pub(super) output: Output,
    /// Whether a run takes one row only.
    pub(super) one_row: bool,
}

/// One input.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) feed: Feed,
}

/// What an input is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// The tokens, `[rows, width]`.
    Ids(Integer),
    /// One where a token stands, zero where there is padding.
    Mask(Integer),
    /// Which text of a pair a token belongs to.
    Types(Integer),
    /// 0, 1, 2, …
    Positions(Integer),
    /// A cache of no rows, `[rows, heads, 0, head size]`.
    EmptyCache { half: bool, heads: usize, head_size: usize },
}

/// The type of an integer input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integer {
    I64,
    I32,
}

/// The output that is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) kind: OutputKind,
}

/// What an output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputKind {
    /// A vector for each token, `[rows, width, size]`.
    Tokens,
    /// A vector for each row, `[rows, size]`; pooled already, and whatever else is to be done.
    Sentences,
    /// A number for each row, `[rows, 1]` or `[rows]`.
    Scores,
}

impl Interface {
    /// Reads the session's interface.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`].
    pub(super) fn of(session: &Session, task: &Task) -> Result<Self, ModelError> {
        let inputs = session.inputs().iter().map(input).collect::<Result<Vec<_>, _>>()?;
        let ids = session.inputs().iter().find(|outlet| outlet.name() == "input_ids");
        let Some((_, shape)) = ids.and_then(tensor) else {
            return Err(unsupported("the graph has no input `input_ids`".to_owned()));
        };
        match shape[..] {
            [rows, width] if rows <= 1 && width < 1 => {}
            _ => {
                return Err(unsupported(format!("`input_ids` has the fixed shape {shape:?}")));
            }
        }
        Ok(Self { inputs, output: output(session, task)?, one_row: shape[0] == 1 })
    }
}

fn unsupported(what: String) -> ModelError {
    ModelError::Unsupported(what)
}

/// Element type and sizes, −1 where symbolic.
fn tensor(outlet: &Outlet) -> Option<(TensorElementType, Vec<i64>)> {
    match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => Some((*ty, shape.to_vec())),
        ValueType::Sequence(_) | ValueType::Map { .. } | ValueType::Optional(_) => None,
    }
}

fn input(outlet: &Outlet) -> Result<Input, ModelError> {
    let name = outlet.name();
    let unknown =
        || unsupported(format!("the graph takes an input `{name}` that Hearth can't feed"));
    let (element, shape) = tensor(outlet).ok_or_else(unknown)?;
    let feed = if name.starts_with("past_key_values.") {
        let size = |place: usize| {
            let size = shape.get(place).and_then(|&size| usize::try_from(size).ok());
            size.filter(|&size| size > 0).ok_or_else(unknown)
        };
        let half = match element {
            TensorElementType::Float32 => false,
            TensorElementType::Float16 => true,
            _ => return Err(unknown()),
        };
        Feed::EmptyCache { half, heads: size(1)?, head_size: size(3)? }
    } else {
        let integer = match element {
            TensorElementType::Int64 => Integer::I64,
            TensorElementType::Int32 => Integer::I32,
            _ => return Err(unknown()),
        };
        match name {
            "input_ids" => Feed::Ids(integer),
            "attention_mask" => Feed::Mask(integer),
            "token_type_ids" => Feed::Types(integer),
            "position_ids" => Feed::Positions(integer),
            _ => return Err(unknown()),
        }
    };
    Ok(Input { name: name.to_owned(), feed })
}

/// The graph's own pooling goes before ours, because it may do more than pool.
const EMBEDDING_OUTPUTS: [(&str, OutputKind); 3] = [
    ("sentence_embedding", OutputKind::Sentences),
    ("token_embeddings", OutputKind::Tokens),
    ("last_hidden_state", OutputKind::Tokens),
];

fn output(session: &Session, task: &Task) -> Result<Output, ModelError> {
    let outputs = session.outputs();
    let named = |name: &str| outputs.iter().find(|outlet| outlet.name() == name);
    let found = match task {
        Task::Rerank => named("logits").map(|outlet| (outlet, OutputKind::Scores)),
        Task::Embed { .. } => {
            let known = EMBEDDING_OUTPUTS.iter();
            let known = known.filter_map(|&(name, kind)| Some((named(name)?, kind))).next();
            known.or_else(|| only_output(outputs))
        }
    };
    let Some((outlet, kind)) = found else {
        let names: Vec<_> = outputs.iter().map(Outlet::name).collect();
        return Err(unsupported(format!(
            "of the graph's outputs `{}` none is known to hold embeddings or scores",
            names.join("`, `")
        )));
    };
    let name = outlet.name();
    let fits = tensor(outlet).is_some_and(|(element, shape)| {
        let number = matches!(element, TensorElementType::Float32 | TensorElementType::Float16);
        number
            && match kind {
                OutputKind::Tokens => shape.len() == 3,
                OutputKind::Sentences => shape.len() == 2,
                OutputKind::Scores => matches!(shape[..], [_] | [_, -1 | 1]),
            }
    });
    if !fits {
        let dtype = outlet.dtype();
        return Err(unsupported(format!("the graph's output `{name}` is {dtype}")));
    }
    if let Task::Embed { graph_must: Some(step), .. } = task
        && kind == OutputKind::Tokens
    {
        return Err(unsupported(format!(
            "modules.json asks for a `{step}` after pooling, which the graph does not do"
        )));
    }
    Ok(Output { name: name.to_owned(), kind })
}

/// An output of a name that nobody knows is what is wanted, if it is the only one.
fn only_output(outputs: &[Outlet]) -> Option<(&Outlet, OutputKind)> {
    let [outlet] = outputs else { return None };
    match tensor(outlet)?.1.len() {
        2 => Some((outlet, OutputKind::Sentences)),
        3 => Some((outlet, OutputKind::Tokens)),
        _ => None,
    }
}
