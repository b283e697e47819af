//! What the head of a GGUF file says of its model, for listings.
//!
//! It reads the first keys only and stops at the first long array, which is the vocabulary:
//! writers put `general.*` before it. Whether the file is sound is the worker's business.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use hearth_shared::protocol::ModelKind;

use super::Facts;
use super::cache::CacheShape;

/// How a file of this layout is called.
pub(super) const SUFFIX: &str = ".gguf";

const KEYS_MAX: u64 = 64;
/// Tags and languages are shorter than this, vocabularies longer.
const ITEMS_MAX: u64 = 256;
const TEXT_BYTES_MAX: u64 = 64 * 1024;
/// The number of the array type.
const ARRAY: u32 = 9;

/// Why a file is no GGUF file.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("its head can't be read: {0}")]
    Io(#[from] io::Error),
    #[error("it does not begin as a GGUF file does")]
    NotGguf,
    #[error("it is GGUF of version {0}; 2 and 3 are read")]
    Version(u32),
    #[error("a text in its head has {0} bytes, at most {TEXT_BYTES_MAX} are read")]
    LongText(u64),
}

/// Reads what there is.
pub(super) fn facts(path: &Path) -> Result<Facts, HeadError> {
    read(&mut BufReader::new(File::open(path)?))
}

fn read(file: &mut impl Read) -> Result<Facts, HeadError> {
    let mut facts = Facts {
        format: "gguf",
        kind: ModelKind::Generate,
        family: String::new(),
        parameter_size: String::new(),
        quantization_level: String::new(),
        cache_per_token: 0,
    };
    let mut cache = CacheShape::default();
    if &bytes::<4>(file)? != b"GGUF" {
        return Err(HeadError::NotGguf);
    }
    match u32::from_le_bytes(bytes(file)?) {
        2 | 3 => {}
        other => return Err(HeadError::Version(other)),
    }
    let _tensors = u64::from_le_bytes(bytes(file)?);
    let keys = u64::from_le_bytes(bytes(file)?);
    for _ in 0..keys.min(KEYS_MAX) {
        let key = text(file)?;
        match (key.as_str(), value(file)?) {
            (_, Value::Opaque) => break,
            ("general.architecture", Value::Text(family)) => facts.family = family,
            ("general.size_label", Value::Text(label)) => facts.parameter_size = label,
            ("general.file_type", Value::Number(number)) => {
                facts.quantization_level = file_type(number).to_owned();
            }
            (key, Value::Number(number)) => note(&mut cache, key, number.into()),
            (_, Value::Text(_) | Value::Passed) => {}
        }
    }
    facts.cache_per_token = cache.numbers_per_token();
    Ok(facts)
}

/// Heeds a size of the cache. The keys begin with the architecture's name.
fn note(cache: &mut CacheShape, key: &str, number: u64) {
    match key.split_once('.').map_or("", |(_architecture, size)| size) {
        "block_count" => cache.layers = number,
        "embedding_length" => cache.hidden = number,
        "attention.head_count" => cache.heads = number,
        "attention.head_count_kv" => cache.kv_heads = Some(number),
        "attention.key_length" => cache.key = Some(number),
        "attention.value_length" => cache.value = Some(number),
        _ => {}
    }
}

enum Value {
    Text(String),
    /// A whole number of up to 32 bits.
    Number(u32),
    /// Something that listings do not show.
    Passed,
    /// The vocabulary, or what no reader knows: nothing that listings show comes after.
    Opaque,
}

fn value(file: &mut impl Read) -> Result<Value, HeadError> {
    let kind = u32::from_le_bytes(bytes(file)?);
    if kind != ARRAY {
        return value_of(kind, file);
    }
    let kind = u32::from_le_bytes(bytes(file)?);
    let items = u64::from_le_bytes(bytes(file)?);
    if items > ITEMS_MAX {
        return Ok(Value::Opaque);
    }
    for _ in 0..items {
        if matches!(value_of(kind, file)?, Value::Opaque) {
            return Ok(Value::Opaque);
        }
    }
    Ok(Value::Passed)
}

/// A value that is no array; arrays of arrays are nothing that anybody writes.
fn value_of(kind: u32, file: &mut impl Read) -> Result<Value, HeadError> {
    Ok(match kind {
        4..=6 => Value::Number(u32::from_le_bytes(bytes(file)?)),
        0 | 1 | 7 => Value::Number(bytes::<1>(file)?[0].into()),
        2 | 3 => Value::Number(u16::from_le_bytes(bytes(file)?).into()),
        10..=12 => {
            bytes::<8>(file)?;
            Value::Passed
        }
        8 => Value::Text(text(file)?),
        _ => Value::Opaque,
    })
}

fn text(file: &mut impl Read) -> Result<String, HeadError> {
    let length = u64::from_le_bytes(bytes(file)?);
    if length > TEXT_BYTES_MAX {
        return Err(HeadError::LongText(length));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn bytes<const N: usize>(file: &mut impl Read) -> Result<[u8; N], HeadError> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// llama.cpp's numbers for what a file mostly holds, in its words.
fn file_type(number: u32) -> &'static str {
    match number {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        32 => "BF16",
        _ => "",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The head of a file with these texts in it, and a file type of `Q4_1`.
    pub(in crate::catalog) fn file(texts: &[(&str, &str)]) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(0_u64.to_le_bytes());
        file.extend((texts.len() as u64 + 3).to_le_bytes());
        let text = |file: &mut Vec<u8>, text: &str| {
            file.extend((text.len() as u64).to_le_bytes());
            file.extend(text.as_bytes());
        };
        for (key, value) in texts {
            text(&mut file, key);
            file.extend(8_u32.to_le_bytes());
            text(&mut file, value);
        }
        text(&mut file, "general.tags");
        file.extend(9_u32.to_le_bytes());
        file.extend(8_u32.to_le_bytes());
        file.extend(1_u64.to_le_bytes());
        text(&mut file, "chat");
        text(&mut file, "general.file_type");
        file.extend(4_u32.to_le_bytes());
        file.extend(3_u32.to_le_bytes());
        text(&mut file, "tokenizer.ggml.tokens");
        file.extend(9_u32.to_le_bytes());
        file.extend(8_u32.to_le_bytes());
        file.extend(49_152_u64.to_le_bytes());
        file
    }

    #[test]
    fn the_head_tells_family_size_and_type() {
        let file = file(&[("general.architecture", "llama"), ("general.size_label", "135M")]);
        let facts = read(&mut &file[..]).unwrap();
        assert_eq!(
            (
                facts.family.as_str(),
                facts.parameter_size.as_str(),
                facts.quantization_level.as_str()
            ),
            ("llama", "135M", "Q4_1")
        );
    }

    #[test]
    fn the_head_tells_how_much_a_token_takes_in_the_cache() {
        let mut file = file(&[("general.architecture", "llama")]);
        let keys = [
            ("llama.block_count", 30_u32),
            ("llama.embedding_length", 576),
            ("llama.attention.head_count", 9),
            ("llama.attention.head_count_kv", 3),
        ];
        // Before all others, as after the vocabulary nothing is read.
        let mut numbers = Vec::new();
        for (key, number) in keys {
            numbers.extend((key.len() as u64).to_le_bytes());
            numbers.extend(key.as_bytes());
            numbers.extend(4_u32.to_le_bytes());
            numbers.extend(number.to_le_bytes());
        }
        drop(file.splice(24..24, numbers));
        file[16] += 4;
        assert_eq!(read(&mut &file[..]).unwrap().cache_per_token, 30 * 3 * 2 * 64);
    }

    #[test]
    fn what_is_no_gguf_file_is_refused_wherever_it_ends() {
        let whole = file(&[("general.architecture", "llama")]);
        for cut in 0..whole.len() {
            assert!(read(&mut &whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(matches!(read(&mut &b"ONNX"[..]), Err(HeadError::NotGguf)));
        let mut future = whole.clone();
        future[4] = 4;
        assert!(matches!(read(&mut &future[..]), Err(HeadError::Version(4))));
        let mut lying = whole;
        lying[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read(&mut &lying[..]), Err(HeadError::LongText(u64::MAX))));
    }
}
