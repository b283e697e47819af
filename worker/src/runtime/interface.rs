//! What a decoder's session takes and gives: names, types and shapes, read from the session.
//!
//! The model's files only say how names are made and what the session leaves symbolic; where both
//! speak, the session is right. What the engine can't feed is refused here, with its name.

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::model::{ModelError, Names, Window};

/// A decoder's inputs and outputs.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) input_ids: String,
    pub(crate) attention_mask: String,
    pub(crate) logits: Logits,
    pub(crate) layers: Vec<KvLayer>,
    pub(crate) extras: Extras,
}

/// The names of inputs that only some graphs have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extras {
    /// Each token's place in its sequence, `[batch, positions]`.
    pub(crate) position_ids: Option<String>,
    /// How many of the last positions get logits, and the tensor's shape: of one number.
    pub(crate) logits_to_keep: Option<(String, Vec<i64>)>,
    /// Whether there is a past, `[1]` of bool.
    pub(crate) use_cache_branch: Option<String>,
}

impl Extras {
    fn of(session: &Session) -> Result<Self, ModelError> {
        let named = |name: &str| find(session.inputs(), name).and_then(tensor);
        let to_keep = ["num_logits_to_keep", "logits_to_keep"].into_iter();
        let to_keep = to_keep.filter_map(|name| Some((name.to_owned(), named(name)?)));
        let logits_to_keep = match to_keep.into_iter().next() {
            None => None,
            Some((name, (TensorElementType::Int64, shape, _)))
                if matches!(shape[..], [] | [-1 | 1]) =>
            {
                Some((name, vec![1; shape.len()]))
            }
            Some((name, _)) => {
                return Err(ModelError::Unsupported(format!("input `{name}` is no one number")));
            }
        };
        let position_ids = find(session.inputs(), "position_ids");
        let use_cache_branch = match named("use_cache_branch") {
            Some((TensorElementType::Bool, _, _)) => Some("use_cache_branch".to_owned()),
            Some(_) | None => None,
        };
        Ok(Self {
            position_ids: position_ids
                .map(|outlet| int64_input(session, outlet.name()))
                .transpose()?,
            logits_to_keep,
            use_cache_branch,
        })
    }

    fn has(&self, name: &str) -> bool {
        let to_keep = self.logits_to_keep.as_ref().map(|(name, _)| name);
        [self.position_ids.as_ref(), to_keep, self.use_cache_branch.as_ref()]
            .into_iter()
            .flatten()
            .any(|known| known == name)
    }
}

/// The logits output, `[batch, positions, vocabulary]`.
#[derive(Debug, Clone)]
pub(crate) struct Logits {
    pub(crate) name: String,
    pub(crate) element: TensorElementType,
    pub(crate) vocabulary: usize,
    /// Whether only each row's last position comes out.
    pub(crate) last_only: bool,
}

/// One layer's keys or values, `[batch, heads, rows, head size]`, in and out.
#[derive(Debug, Clone)]
pub(crate) struct KvLayer {
    pub(crate) past: String,
    pub(crate) present: String,
    pub(crate) element: TensorElementType,
    pub(crate) heads: usize,
    pub(crate) head_size: usize,
    /// Set where the cache has this many rows always, and holds the newest positions only.
    pub(crate) window_rows: Option<usize>,
}

/// What the files say about shapes that a session may leave open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hints<'a> {
    pub(crate) head_size: Option<usize>,
    pub(crate) kv_heads: Option<usize>,
    pub(crate) vocabulary: Option<usize>,
    pub(crate) window: Option<&'a Window>,
}

impl Interface {
    /// Reads the session's interface.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for an input that the engine can't feed, a cache of a type or
    /// a shape that it can't hold, or logits that it can't read.
    pub(crate) fn of(
        session: &Session,
        names: &Names,
        hints: Hints<'_>,
    ) -> Result<Self, ModelError> {
        let mut layers = Vec::new();
        for index in 0..session.inputs().len() {
            let pairs = [
                (names.past_key(index), names.present_key(index)),
                (names.past_value(index), names.present_value(index)),
            ];
            for (past, present) in pairs {
                if let Some(outlet) = find(session.inputs(), &past) {
                    layers.push(kv_layer(outlet, session, (index, present), hints)?);
                }
            }
        }
        let extras = Extras::of(session)?;
        refuse_other_inputs(session, names, (&layers, &extras))?;
        if layers.is_empty() {
            return Err(ModelError::Unsupported(
                "the graph has no key and value caches; only decoders are run".to_owned(),
            ));
        }
        Ok(Self {
            input_ids: int64_input(session, &names.input_ids)?,
            attention_mask: int64_input(session, &names.attention_mask)?,
            logits: logits(session, &names.logits, (hints, extras.logits_to_keep.is_some()))?,
            layers,
            extras,
        })
    }
}

fn find<'a>(outlets: &'a [Outlet], name: &str) -> Option<&'a Outlet> {
    outlets.iter().find(|outlet| outlet.name() == name)
}

/// Element type, sizes (−1 where symbolic) and symbols of a tensor.
fn tensor(outlet: &Outlet) -> Option<(TensorElementType, Vec<i64>, Vec<String>)> {
    match outlet.dtype() {
        ValueType::Tensor { ty, shape, dimension_symbols } => {
            Some((*ty, shape.to_vec(), dimension_symbols.to_vec()))
        }
        ValueType::Sequence(_) | ValueType::Map { .. } | ValueType::Optional(_) => None,
    }
}

fn int64_input(session: &Session, name: &str) -> Result<String, ModelError> {
    let outlet = find(session.inputs(), name)
        .ok_or_else(|| ModelError::Unsupported(format!("the graph has no input `{name}`")))?;
    match tensor(outlet) {
        Some((TensorElementType::Int64, shape, _)) if shape.len() == 2 => Ok(name.to_owned()),
        Some(_) | None => Err(ModelError::Unsupported(format!(
            "input `{name}` is {} and not a matrix of int64",
            outlet.dtype()
        ))),
    }
}

fn kv_layer(
    outlet: &Outlet,
    session: &Session,
    (index, present): (usize, String),
    hints: Hints<'_>,
) -> Result<KvLayer, ModelError> {
    let past = outlet.name().to_owned();
    let unsupported = |what: &str| ModelError::Unsupported(format!("cache `{past}` {what}"));
    if find(session.outputs(), &present).is_none() {
        return Err(unsupported("has no output to go with it"));
    }
    let Some((element, shape, symbols)) = tensor(outlet) else {
        return Err(unsupported("is no tensor"));
    };
    match element {
        TensorElementType::Float32 | TensorElementType::Float16 => {}
        other => {
            return Err(unsupported(&format!("is of {other}, not of float32 or float16")));
        }
    }
    if shape.len() != 4 {
        return Err(unsupported("has not four dimensions"));
    }
    let heads = known(shape[1], hints.kv_heads).ok_or_else(|| unsupported("hides its heads"))?;
    let head_size =
        known(shape[3], hints.head_size).ok_or_else(|| unsupported("hides its head size"))?;
    // The files list sliding layers also where the graph keeps their whole cache; only the name
    // of the dimension tells the two apart.
    let slides = symbols.get(2).is_some_and(|symbol| symbol.contains("sliding"));
    let window_rows = match hints.window {
        Some(window) if slides && window.layers.contains(&index) => Some(window.rows),
        Some(_) | None if slides => return Err(unsupported("slides, but its size is not given")),
        Some(_) | None => None,
    };
    Ok(KvLayer { past, present, element, heads, head_size, window_rows })
}

fn known(size: i64, hint: Option<usize>) -> Option<usize> {
    usize::try_from(size).ok().or(hint).filter(|&size| size > 0)
}

fn logits(
    session: &Session,
    name: &str,
    (hints, can_be_limited): (Hints<'_>, bool),
) -> Result<Logits, ModelError> {
    let unsupported = |what: &str| ModelError::Unsupported(format!("output `{name}` {what}"));
    let outlet = find(session.outputs(), name).ok_or_else(|| unsupported("does not exist"))?;
    let Some((element, shape, _)) = tensor(outlet) else {
        return Err(unsupported("is no tensor"));
    };
    match element {
        TensorElementType::Float32 | TensorElementType::Float16 => {}
        other => {
            return Err(unsupported(&format!("is of {other}, not of float32 or float16")));
        }
    }
    if shape.len() != 3 {
        return Err(unsupported("has not three dimensions"));
    }
    Ok(Logits {
        name: name.to_owned(),
        element,
        vocabulary: known(shape[2], hints.vocabulary)
            .ok_or_else(|| unsupported("hides the size of the vocabulary"))?,
        last_only: shape[1] == 1 || can_be_limited,
    })
}

fn refuse_other_inputs(
    session: &Session,
    names: &Names,
    (layers, extras): (&[KvLayer], &Extras),
) -> Result<(), ModelError> {
    let fed = |name: &str| {
        name == names.input_ids
            || name == names.attention_mask
            || layers.iter().any(|layer| layer.past == name)
            || extras.has(name)
    };
    match session.inputs().iter().find(|outlet| !fed(outlet.name())) {
        None => Ok(()),
        Some(outlet) => Err(ModelError::Unsupported(format!(
            "the graph takes an input `{}` that Hearth does not know",
            outlet.name()
        ))),
    }
}
