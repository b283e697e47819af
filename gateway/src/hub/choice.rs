//! Which files of a repository make one model that can be served. Pure.
//!
//! In this order: GGUF files, a folder of onnxruntime-genai's layout, a folder as exporters write it
//! for Hugging Face. A tag picks one of several; without one it is the one that does best on a CPU.

use super::listing::{Listing, RemoteFile};
use crate::store::Entry;

/// Quantizations of GGUF by how well they go here: small and hardly worse first.
const QUANTIZATIONS: [&str; 11] =
    ["Q4_K_M", "Q4_1", "Q4_0", "Q4_K_S", "Q5_K_M", "Q5_1", "Q5_0", "Q6_K", "Q8_0", "BF16", "F16"];
/// Variants of ONNX graphs, for models that generate and for models that encode.
const OF_DECODERS: [&str; 6] = ["q4", "int4", "quantized", "int8", "", "fp16"];
const OF_ENCODERS: [&str; 4] = ["", "quantized", "int8", "fp16"];
/// What the file without a suffix is called.
const PLAIN: &str = "fp32";

/// What stands beside a graph and is needed to use it, in the folder's root.
const COMPANIONS: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// What is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What becomes of it.
    pub entry: Entry,
    /// The graph stands last.
    pub files: Vec<Chosen>,
}

/// One file of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// What is fetched.
    pub file: RemoteFile,
    /// Where it belongs in the model's folder.
    pub place: String,
}

/// Why nothing is fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// Only other formats are there.
    #[error("the repository holds neither a GGUF file nor an ONNX graph with its configuration")]
    NoModel,
    /// Not this one.
    #[error("the repository holds nothing called `{tag}`; there is {there}")]
    NoSuch {
        /// What was asked for.
        tag: String,
        /// What there is.
        there: String,
    },
    /// In pieces.
    #[error("the repository holds this model only in several GGUF files, which are not read")]
    Split,
}

/// # Errors
/// [`ChoiceError`]
pub(crate) fn choose(listing: &Listing, tag: Option<&str>) -> Result<Choice, ChoiceError> {
    let all = &listing.files;
    let is_gguf = |file: &&RemoteFile| {
        let name = file_name(file).to_ascii_lowercase();
        // The eyes of a model that sees are no model.
        name.ends_with(".gguf") && !name.contains("mmproj")
    };
    let ggufs: Vec<&RemoteFile> = all.iter().filter(is_gguf).collect();
    if !ggufs.is_empty() {
        return gguf(&ggufs, tag);
    }
    let genai: Vec<&str> = all
        .iter()
        .filter(|file| file_name(file) == "genai_config.json")
        .map(|file| file.path.strip_suffix("genai_config.json").unwrap_or(""))
        .collect();
    if !genai.is_empty() {
        return genai_folder(all, &genai, tag);
    }
    graph(listing, tag)
}

fn file_name(file: &RemoteFile) -> &str {
    file.path.rsplit('/').next().unwrap_or(&file.path)
}

fn gguf(files: &[&RemoteFile], tag: Option<&str>) -> Result<Choice, ChoiceError> {
    let stem = |file: &RemoteFile| {
        let name = file_name(file);
        name[..name.len() - ".gguf".len()].to_owned()
    };
    let is_of = |file: &RemoteFile, tag: &str| {
        let (stem, tag) = (stem(file).to_ascii_lowercase(), tag.to_ascii_lowercase());
        let tag = tag.strip_suffix(".gguf").unwrap_or(&tag);
        stem.strip_suffix(tag).is_some_and(|before| {
            before.is_empty()
                || before.ends_with(['-', '.'])
                // Quantizations hold underscores themselves: the `0` of `Q8_0` is none.
                || (before.ends_with('_') && is_quantization(tag))
        })
    };
    let is_piece = |file: &RemoteFile| stem(file).contains("-of-0");
    let whole: Vec<&RemoteFile> = files.iter().copied().filter(|file| !is_piece(file)).collect();
    let found = match tag {
        Some(tag) => whole.iter().find(|file| is_of(file, tag)),
        None => QUANTIZATIONS
            .iter()
            .find_map(|kind| whole.iter().find(|file| is_of(file, kind)))
            .or(whole.first()),
    };
    match (found, tag) {
        (Some(file), _) => {
            let place = file_name(file).to_owned();
            Ok(Choice { entry: Entry::File, files: vec![Chosen { file: (*file).clone(), place }] })
        }
        (None, None) => Err(ChoiceError::Split),
        (None, Some(tag))
            if files.iter().any(|file| {
                stem(file).to_ascii_lowercase().contains(&tag.to_ascii_lowercase())
                    && is_piece(file)
            }) =>
        {
            Err(ChoiceError::Split)
        }
        (None, Some(tag)) => Err(no_such(tag, whole.iter().map(|file| stem(file)))),
    }
}

/// `q4_k_m`, `iq2_m`, `bf16`, …
fn is_quantization(tag: &str) -> bool {
    let rest = ["iq", "q", "bf", "f"].iter().find_map(|prefix| tag.strip_prefix(prefix));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// A whole folder: everything in it belongs to the model.
fn genai_folder(
    all: &[RemoteFile],
    folders: &[&str],
    tag: Option<&str>,
) -> Result<Choice, ChoiceError> {
    let last_part =
        |folder: &str| folder.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
    let folder = match tag {
        Some(tag) => folders.iter().find(|folder| {
            let parts = folder.split('/');
            parts.filter(|part| !part.is_empty()).any(|part| part.eq_ignore_ascii_case(tag))
        }),
        None => folders.iter().find(|folder| folder.contains("cpu")).or(folders.first()),
    };
    let Some(folder) = folder else {
        let names = folders.iter().filter_map(|folder| last_part(folder));
        return Err(no_such(tag.unwrap_or_default(), names));
    };
    let inside = all.iter().filter_map(|file| {
        let place = file.path.strip_prefix(folder)?;
        let belongs = !place.contains('/') && !place.ends_with(".md");
        belongs.then(|| Chosen { file: file.clone(), place: place.to_owned() })
    });
    Ok(folder_of(inside.collect()))
}

fn graph(listing: &Listing, tag: Option<&str>) -> Result<Choice, ChoiceError> {
    let all = &listing.files;
    let graphs: Vec<(&str, &RemoteFile)> =
        all.iter().filter_map(|file| Some((variant(&file.path)?, file))).collect();
    let has = |name: &str| all.iter().any(|file| file.path == name);
    if graphs.is_empty() || !has("config.json") || !has("tokenizer.json") {
        return Err(ChoiceError::NoModel);
    }
    let of = |wanted: &str| {
        let wanted = if wanted.eq_ignore_ascii_case(PLAIN) { "" } else { wanted };
        graphs.iter().find(|(variant, _)| variant.eq_ignore_ascii_case(wanted))
    };
    let order: &[&str] = match listing.task.as_deref() {
        Some("text-generation" | "image-text-to-text") => &OF_DECODERS,
        Some(_) | None => &OF_ENCODERS,
    };
    let found = match tag {
        Some(tag) => of(tag),
        None => order.iter().find_map(|variant| of(variant)).or(graphs.first()),
    };
    let Some((_, graph)) = found else {
        let name = |(variant, _): &(&str, _)| {
            if variant.is_empty() { PLAIN.to_owned() } else { (*variant).to_owned() }
        };
        return Err(no_such(tag.unwrap_or_default(), graphs.iter().map(name)));
    };
    let belongs = |file: &&RemoteFile| {
        let is_weights = file.path.strip_prefix(&graph.path).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with("_data") || rest.starts_with(".data")
        });
        // Which rows sentence-transformers pools, and how, stands in a folder of its own.
        let is_pooling = file.path.ends_with("_Pooling/config.json");
        is_weights || is_pooling || COMPANIONS.contains(&file.path.as_str())
    };
    let chosen = |file: &RemoteFile| Chosen { file: file.clone(), place: file.path.clone() };
    Ok(folder_of(all.iter().filter(belongs).map(chosen).collect()))
}

/// The variant of `model.onnx` or `onnx/model_VARIANT.onnx`; empty for the plain one.
fn variant(path: &str) -> Option<&str> {
    let name = path.strip_prefix("onnx/").unwrap_or(path);
    let rest = name.strip_prefix("model")?.strip_suffix(".onnx")?;
    if rest.is_empty() {
        Some("")
    } else {
        rest.strip_prefix('_').filter(|rest| !rest.contains('/'))
    }
}

fn folder_of(mut files: Vec<Chosen>) -> Choice {
    files.sort_by_key(|chosen| (chosen.place.ends_with(".onnx"), chosen.place.clone()));
    Choice { entry: Entry::Folder, files }
}

fn no_such(tag: &str, there: impl Iterator<Item = String>) -> ChoiceError {
    const TOLD_MAX: usize = 12;
    let there: Vec<String> = there.take(TOLD_MAX).collect();
    ChoiceError::NoSuch { tag: tag.to_owned(), there: there.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::listing::Content;
    use super::*;

    fn listing(task: &str, paths: &[&str]) -> Listing {
        let content = Content::Git("b".repeat(40));
        let file = |path: &&str| RemoteFile {
            path: (*path).to_owned(),
            size: 1,
            content: content.clone(),
        };
        let files = paths.iter().map(file).collect();
        Listing { commit: "c".repeat(40), task: Some(task.to_owned()), files }
    }

    fn places(listing: &Listing, tag: Option<&str>) -> Vec<String> {
        choose(listing, tag).unwrap().files.into_iter().map(|chosen| chosen.place).collect()
    }

    const GGUFS: [&str; 6] = [
        "README.md",
        "Tiny-1B-IQ2_M.gguf",
        "Tiny-1B-Q4_K_M.gguf",
        "Tiny-1B-Q8_0.gguf",
        "Tiny-1B-F32/Tiny-1B-F32-00001-of-00002.gguf",
        "mmproj-F16.gguf",
    ];

    #[test]
    fn a_quantization_is_found_by_its_name_in_any_case_and_else_the_best_is_taken() {
        let listing = listing("text-generation", &GGUFS);
        assert_eq!(places(&listing, Some("q8_0")), ["Tiny-1B-Q8_0.gguf"]);
        assert_eq!(places(&listing, Some("Tiny-1B-Q8_0.gguf")), ["Tiny-1B-Q8_0.gguf"]);
        assert_eq!(places(&listing, None), ["Tiny-1B-Q4_K_M.gguf"]);
        assert_eq!(choose(&listing, None).unwrap().entry, Entry::File);
        let missing = choose(&listing, Some("Q5_0")).unwrap_err().to_string();
        assert_eq!(
            missing,
            "the repository holds nothing called `Q5_0`; there is Tiny-1B-IQ2_M, \
             Tiny-1B-Q4_K_M, Tiny-1B-Q8_0"
        );
        assert_eq!(choose(&listing, Some("F32")), Err(ChoiceError::Split));
        // A part of a name is no name: `0` is no quantization.
        assert!(choose(&listing, Some("0")).is_err());
    }

    const EXPORT: [&str; 12] = [
        "README.md",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model_q4.onnx",
        "onnx/model_q4.onnx_data",
        "onnx/model_q4f16.onnx",
        "onnx/model_quantized.onnx",
    ];

    #[test]
    fn a_graph_comes_with_its_weights_and_companions_and_stands_last() {
        let with = |graph: &[&str]| {
            let mut all = ["1_Pooling/config.json", "config.json"].to_vec();
            let (last, weights) = graph.split_last().unwrap();
            all.extend(weights);
            all.extend(["tokenizer.json", "tokenizer_config.json", last]);
            all.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let decoder = listing("text-generation", &EXPORT);
        let q4 = with(&["onnx/model_q4.onnx_data", "onnx/model_q4.onnx"]);
        assert_eq!(places(&decoder, None), q4);
        assert_eq!(places(&decoder, Some("q4")), q4);
        let plain = with(&["onnx/model.onnx_data", "onnx/model.onnx"]);
        assert_eq!(places(&decoder, Some("fp32")), plain);
        assert_eq!(places(&listing("sentence-similarity", &EXPORT), None), plain);
        let missing = choose(&decoder, Some("int3")).unwrap_err().to_string();
        assert!(missing.ends_with("there is fp32, q4, q4f16, quantized"), "{missing}");
    }

    #[test]
    fn a_genai_folder_is_taken_as_a_whole_from_where_it_lies() {
        let listing = listing(
            "text-generation",
            &[
                "config.json",
                "cpu/cpu-int4/genai_config.json",
                "cpu/cpu-int4/model.onnx",
                "cpu/cpu-int4/model.onnx.data",
                "gpu/gpu-int4/genai_config.json",
                "gpu/gpu-int4/model.onnx",
            ],
        );
        let cpu = ["genai_config.json", "model.onnx.data", "model.onnx"];
        assert_eq!(places(&listing, None), cpu);
        assert_eq!(places(&listing, Some("gpu-int4")), ["genai_config.json", "model.onnx"]);
        assert!(choose(&listing, Some("npu")).is_err());
    }

    #[test]
    fn other_formats_are_no_model() {
        let listing =
            listing("text-generation", &["config.json", "tokenizer.json", "model.safetensors"]);
        assert_eq!(choose(&listing, None), Err(ChoiceError::NoModel));
    }
}
