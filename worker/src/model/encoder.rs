//! Folders of encoders: sentence-transformers' for embeddings, Hugging Face's for rerankers.
//!
//! The weights are one ONNX graph; what happens to its output is written in small files:
//! `modules.json` and `1_Pooling/config.json` say how tokens become one vector,
//! `sentence_bert_config.json` how long a text may be. Where no file speaks, sentence-transformers'
//! own defaults hold.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::graphs::{Graphs, PLAIN};
use super::huggingface::Config;
use super::{ModelError, Variant, graph_file, read_file, read_json, read_json_if_there};

/// Everything that an encoder's files say.
#[derive(Debug)]
pub(crate) struct EncoderModel {
    /// The family, as the files name it.
    pub(crate) architecture: String,
    pub(crate) graph: PathBuf,
    /// `tokenizer.json`, whole.
    pub(crate) tokenizer: Vec<u8>,
    pub(crate) task: Task,
    /// The most tokens in one input, special ones included.
    pub(crate) tokens_max: u32,
    /// How many tokens there are; ids from there on would fail in the graph.
    pub(crate) vocabulary: Option<u32>,
    /// What fills short rows of a batch.
    pub(crate) pad: u32,
    /// What stands before every text, as the folder wants it.
    pub(crate) prompt: String,
    pub(crate) lower_case: bool,
}

/// What an encoder is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// Texts to vectors.
    Embed {
        /// How the vectors of tokens become one, unless the graph does it itself.
        pooling: Pooling,
        /// Whether the vector is brought to length 1.
        normalize: bool,
        /// A step after pooling that only the graph itself could have done.
        graph_must: Option<String>,
    },
    /// Pairs of texts to one number.
    Rerank,
}

/// How the vectors of an input's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Their mean.
    Mean,
    /// The first one.
    Cls,
    /// The largest value in each dimension.
    Max,
    /// The last one.
    Last,
}

/// Whether the folder says that its model makes embeddings.
pub(super) fn is_at(folder: &Path) -> bool {
    folder.join("modules.json").is_file() || folder.join(POOLING_FILE).is_file()
}

const POOLING_FILE: &str = "1_Pooling/config.json";

/// Vectors are compared with stored ones, so the default is the variant that loses nothing.
const ORDER: [&str; 4] = [PLAIN, "fp16", "quantized", "int8"];

/// Reads an embedding model's folder.
///
/// # Errors
/// [`ModelError`], the file in question named.
pub(super) fn read_embedder(
    folder: &Path,
    config: &Config,
    variant: Variant<'_>,
) -> Result<EncoderModel, ModelError> {
    let prompts: Prompts = read_json_if_there(&folder.join("config_sentence_transformers.json"))?;
    let prompt = prompts.default_prompt()?;
    let task = embed_task(folder, config, !prompt.is_empty())?;
    read_folder(folder, config, variant, (task, prompt))
}

/// Reads a cross-encoder's folder.
///
/// # Errors
/// [`ModelError`], the file in question named.
pub(super) fn read_reranker(
    folder: &Path,
    config: &Config,
    variant: Variant<'_>,
) -> Result<EncoderModel, ModelError> {
    let labels = config.labels();
    if labels != 1 {
        return Err(ModelError::Unsupported(format!(
            "it sorts texts into {labels} classes; of classifiers only those with one label are \
             run, as rerankers"
        )));
    }
    read_folder(folder, config, variant, (Task::Rerank, String::new()))
}

fn read_folder(
    folder: &Path,
    config: &Config,
    variant: Variant<'_>,
    (task, prompt): (Task, String),
) -> Result<EncoderModel, ModelError> {
    let graphs = Graphs::find(folder, "model")?;
    let graph = graphs.choose(variant, (&ORDER, &ORDER))?;
    graph_file::check(&graph)?;
    let sentence: SentenceConfig = read_json_if_there(&folder.join("sentence_bert_config.json"))?;
    let tokenizer: TokenizerConfig = read_json_if_there(&folder.join("tokenizer_config.json"))?;
    Ok(EncoderModel {
        architecture: config.model_type.clone(),
        graph,
        tokenizer: read_file(&folder.join("tokenizer.json"))?,
        task,
        tokens_max: tokens_max(config, &sentence, &tokenizer),
        vocabulary: config.vocab_size,
        pad: config.pad().unwrap_or(0),
        prompt,
        lower_case: sentence.do_lower_case,
    })
}

// === What becomes of the graph's output ===

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

fn embed_task(folder: &Path, config: &Config, prompted: bool) -> Result<Task, ModelError> {
    let modules_file = folder.join("modules.json");
    if !modules_file.exists() {
        let pooling_file = folder.join(POOLING_FILE);
        let pooling = if pooling_file.exists() {
            read_pooling(&pooling_file, prompted)?
        } else if config.is_causal() {
            // Only the last token of a decoder has seen all others.
            Pooling::Last
        } else {
            Pooling::Mean
        };
        return Ok(Task::Embed { pooling, normalize: true, graph_must: None });
    }
    let modules: Vec<Module> = read_json(&modules_file)?;
    let (mut pooling, mut normalize, mut graph_must) = (Pooling::Mean, false, None);
    for module in modules {
        // Their full names have changed over the years, the last parts have not.
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => {
                let file = folder.join(&module.path).join("config.json");
                pooling = read_pooling(&file, prompted)?;
            }
            "Normalize" => normalize = true,
            other => graph_must = Some(other.to_owned()),
        }
    }
    Ok(Task::Embed { pooling, normalize, graph_must })
}

/// Both ways to write it: one switch for each kind, or the kind by name.
#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode: Option<String>,
    #[serde(default = "yes")]
    include_prompt: bool,
    #[serde(flatten)]
    switches: serde_json::Map<String, Value>,
}

fn yes() -> bool {
    true
}

fn read_pooling(path: &Path, prompted: bool) -> Result<Pooling, ModelError> {
    let config: PoolingConfig = read_json(path)?;
    let switched = config.switches.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("pooling_mode_")?;
        (value == &Value::Bool(true)).then_some(name)
    });
    let names: Vec<&str> = config.pooling_mode.as_deref().into_iter().chain(switched).collect();
    if prompted && !config.include_prompt {
        return Err(ModelError::Unsupported(
            "its pooling leaves the prompt's tokens out, which Hearth can't".to_owned(),
        ));
    }
    match names[..] {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        ["max" | "max_tokens"] => Ok(Pooling::Max),
        ["lasttoken"] => Ok(Pooling::Last),
        _ => Err(ModelError::Unsupported(format!(
            "{} asks for the pooling {names:?}; mean, cls, max and lasttoken are known, one at a \
             time",
            path.display()
        ))),
    }
}

#[derive(Default, Deserialize)]
struct Prompts {
    #[serde(default)]
    prompts: serde_json::Map<String, Value>,
    #[serde(default)]
    default_prompt_name: Option<String>,
}

impl Prompts {
    fn default_prompt(&self) -> Result<String, ModelError> {
        let Some(name) = &self.default_prompt_name else { return Ok(String::new()) };
        let prompt = self.prompts.get(name).and_then(Value::as_str);
        prompt.map(str::to_owned).ok_or_else(|| {
            ModelError::Unsupported(format!(
                "its default prompt `{name}` is not among its prompts; look at \
                 config_sentence_transformers.json"
            ))
        })
    }
}

// === How long an input may be ===

#[derive(Default, Deserialize)]
struct SentenceConfig {
    #[serde(default)]
    max_seq_length: Option<u32>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    /// Where there is no limit, a number beyond all integers stands here.
    #[serde(default)]
    model_max_length: Option<f64>,
}

/// What holds where no file says how long a text may be.
const TOKENS_MAX_DEFAULT: u32 = 512;

fn tokens_max(config: &Config, sentence: &SentenceConfig, tokenizer: &TokenizerConfig) -> u32 {
    let by_tokenizer = tokenizer.model_max_length.and_then(|length| {
        // Exact: the number is whole wherever it is small enough to be a limit.
        let length = length.to_string().parse::<u32>().ok()?;
        (length > 0).then_some(length)
    });
    let written = sentence.max_seq_length.or(by_tokenizer);
    // More positions than the graph has rows for would fail in it.
    let limits = [written, config.positions()];
    limits.into_iter().flatten().min().unwrap_or(TOKENS_MAX_DEFAULT).max(1)
}
