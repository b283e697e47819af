//! What an onnxruntime-genai folder says of its model, for listings.

use std::fs;
use std::io;
use std::path::Path;

use hearth_shared::protocol::ModelKind;
use serde::Deserialize;

use super::Facts;
use super::cache::CacheShape;

const CONFIG: &str = "genai_config.json";
/// A larger one is none.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why its configuration tells nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("{CONFIG} can't be read: {0}")]
    Io(#[from] io::Error),
    #[error("{CONFIG} has {0} bytes, at most {CONFIG_BYTES_MAX} are read")]
    TooLarge(u64),
    #[error("{CONFIG} can't be understood: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Config {
    model: ConfigModel,
}

#[derive(Deserialize)]
struct ConfigModel {
    #[serde(rename = "type")]
    family: String,
    #[serde(default)]
    decoder: serde_json::Value,
}

/// Whether a folder is of this layout.
pub(super) fn is_model(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// Reads the family and the cache's shape; the layout tells no types.
pub(super) fn facts(folder: &Path) -> Result<Facts, ConfigError> {
    let path = folder.join(CONFIG);
    let bytes = fs::metadata(&path)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge(bytes));
    }
    let config: Config = serde_json::from_slice(&fs::read(path)?)?;
    Ok(Facts {
        format: "onnx",
        kind: ModelKind::Generate,
        family: config.model.family,
        parameter_size: String::new(),
        quantization_level: String::new(),
        cache_per_token: CacheShape::of(&config.model.decoder).numbers_per_token(),
    })
}
