//! What the metadata say about the network: sizes, norms and rotary embedding.
//!
//! `gguf::open` reads it, the graph is built from it. Numbers are checked against each other here,
//! so that the graph can multiply them without looking.

use super::{GgufError, reader::GgufFile};

/// Far above any model, far below what overflows when such numbers are multiplied.
const SIZE_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 1024;
/// The rotary tables are as long as the context: a file must not claim any size.
const CONTEXT_MAX: usize = 1 << 20;

/// The families that a graph is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama, Mistral, SmolLM: rows of q and k in pairs.
    Llama,
    /// Qwen2: biases on q, k and v.
    Qwen2,
    /// Qwen3: q and k normed per head.
    Qwen3,
    /// `SmolLM3`: Llama in which every fourth layer has no rotary embedding.
    SmolLm3,
}

/// How positions get into q and k.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub base: f32,
    /// What is done to them.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// High frequencies kept, low ones divided, a ramp between; attention scaled.
    Yarn {
        /// The divisor of the low frequencies.
        factor: f32,
        /// The context that the model was first trained for.
        original_context: f32,
    },
    /// A divisor for each frequency, from the tensor `rope_freqs.weight` (Llama 3).
    PerFrequency,
}

/// The network's sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Which graph.
    pub family: Family,
    /// `general.architecture`, as the file spells it.
    pub architecture: String,
    /// `general.name`, if the file has one.
    pub name: Option<String>,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens that the model was trained for.
    pub context_length: usize,
    /// Rows of the embedding, which may be more than the vocabulary.
    pub vocab_size: usize,
    /// Of every norm.
    pub epsilon: f32,
    /// Rotary embedding.
    pub rope: Rope,
}

impl Facts {
    pub(super) fn read(file: &GgufFile) -> Result<Self, GgufError> {
        let ask = file.ask();
        let architecture = ask
            .string("general.architecture")?
            .ok_or_else(|| GgufError::MissingKey { key: "general.architecture".to_owned() })?;
        let family = family(architecture)?;
        let key = |name: &str| format!("{architecture}.{name}");
        if ask.unsigned(&key("expert_count"))?.is_some_and(|experts| experts > 0) {
            return Err(GgufError::Unsupported { what: "a mixture of experts".to_owned() });
        }
        let hidden = bounded(file, &key("embedding_length"), SIZE_MAX)?;
        let heads = bounded(file, &key("attention.head_count"), SIZE_MAX)?;
        let kv_heads = kv_heads(file, &key("attention.head_count_kv"), heads)?;
        let head_dim = head_dim(file, architecture, hidden, heads)?;
        let embedding = file
            .tensor("token_embd.weight")
            .ok_or_else(|| GgufError::MissingTensor { name: "token_embd.weight".to_owned() })?;
        let epsilon_key = key("attention.layer_norm_rms_epsilon");
        let epsilon = ask
            .float(&epsilon_key)?
            .ok_or_else(|| GgufError::MissingKey { key: epsilon_key.clone() })?;
        Ok(Self {
            family,
            architecture: architecture.to_owned(),
            name: ask.string("general.name")?.map(str::to_owned),
            layers: bounded(file, &key("block_count"), LAYERS_MAX)?,
            hidden,
            feed_forward: bounded(file, &key("feed_forward_length"), SIZE_MAX)?,
            heads,
            kv_heads,
            head_dim,
            context_length: bounded(file, &key("context_length"), CONTEXT_MAX)?,
            vocab_size: embedding.shape.get(1).copied().unwrap_or(0),
            epsilon,
            rope: rope(file, architecture)?,
        })
    }

    /// Whether layer `index` turns q and k by their positions.
    #[must_use]
    pub fn is_rotary(&self, index: usize) -> bool {
        // SmolLM3 leaves it out on every fourth layer.
        self.family != Family::SmolLm3 || !(index + 1).is_multiple_of(4)
    }

    /// Whether llama.cpp's converter moved the two halves of q's and k's rows next to each other.
    pub(super) fn has_paired_rows(&self) -> bool {
        matches!(self.family, Family::Llama | Family::SmolLm3)
    }
}

fn family(architecture: &str) -> Result<Family, GgufError> {
    match architecture {
        "llama" | "mistral" | "mistral3" => Ok(Family::Llama),
        "qwen2" => Ok(Family::Qwen2),
        "qwen3" => Ok(Family::Qwen3),
        "smollm3" => Ok(Family::SmolLm3),
        _ => Err(GgufError::Architecture { name: super::error::shown(architecture) }),
    }
}

fn bounded(file: &GgufFile, key: &str, max: usize) -> Result<usize, GgufError> {
    match file.ask().needed_size(key)? {
        size if size <= max => Ok(size),
        _ => Err(GgufError::BadValue { key: key.to_owned(), expected: "a smaller number" }),
    }
}

fn kv_heads(file: &GgufFile, key: &str, heads: usize) -> Result<usize, GgufError> {
    let kv_heads = match file.ask().size(key)? {
        Some(count) => count,
        None => heads,
    };
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        let expected = "a divisor of the number of heads";
        return Err(GgufError::BadValue { key: key.to_owned(), expected });
    }
    Ok(kv_heads)
}

fn head_dim(
    file: &GgufFile,
    architecture: &str,
    hidden: usize,
    heads: usize,
) -> Result<usize, GgufError> {
    let ask = file.ask();
    let key = format!("{architecture}.attention.key_length");
    let bad = |key: &str, expected| GgufError::BadValue { key: key.to_owned(), expected };
    let head_dim = match ask.size(&key)? {
        Some(size) => size,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(bad(&key, "to be there, since the heads do not divide the width"));
        }
    };
    // GroupQueryAttention wants a multiple of 8; 1024 is beyond every model.
    if head_dim == 0 || !head_dim.is_multiple_of(8) || head_dim > 1024 {
        return Err(bad(&key, "a multiple of 8 up to 1024"));
    }
    let value_key = format!("{architecture}.attention.value_length");
    if ask.size(&value_key)?.is_some_and(|size| size != head_dim) {
        return Err(bad(&value_key, "the same as attention.key_length"));
    }
    let rotary_key = format!("{architecture}.rope.dimension_count");
    if ask.size(&rotary_key)?.is_some_and(|size| size != head_dim) {
        return Err(bad(&rotary_key, "the whole head"));
    }
    Ok(head_dim)
}

fn rope(file: &GgufFile, architecture: &str) -> Result<Rope, GgufError> {
    let ask = file.ask();
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let base = ask.float(&key("freq_base"))?.unwrap_or(10_000.0);
    let factor = match ask.float(&key("scaling.factor"))? {
        Some(factor) => Some(factor),
        None => ask.float(&key("scale_linear"))?,
    };
    let factor = factor.filter(|&factor| factor > 0.0).unwrap_or(1.0);
    let scaling = match ask.string(&key("scaling.type"))? {
        _ if file.tensor("rope_freqs.weight").is_some() => RopeScaling::PerFrequency,
        Some("yarn") => {
            let context = ask.unsigned(&key("scaling.original_context_length"))?;
            let missing = || GgufError::MissingKey { key: key("scaling.original_context_length") };
            let original_context = context.ok_or_else(missing)? as f32;
            RopeScaling::Yarn { factor, original_context }
        }
        Some("none") => RopeScaling::None,
        None | Some("linear") if factor == 1.0 => RopeScaling::None,
        None | Some("linear") => RopeScaling::Linear { factor },
        Some(other) => {
            let what = format!("rotary scaling `{}`", super::error::shown(other));
            return Err(GgufError::Unsupported { what });
        }
    };
    Ok(Rope { base, scaling })
}
