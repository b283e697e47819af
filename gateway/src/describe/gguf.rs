//! All of a GGUF file's metadata, and the sizes in its list of tensors.
//!
//! Everything has a limit, and every length is checked before it is believed: a file may have come
//! from anywhere.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Number, Value};

use super::{Arrays, Description};

const KEYS_MAX: u64 = 10_000;
const TENSORS_MAX: u64 = 100_000;
/// Templates and licences are shorter; a longer text is passed over.
const KEPT_TEXT_BYTES_MAX: u64 = 1024 * 1024;
const ITEMS_MAX: u64 = 10_000_000;
const DIMENSIONS_MAX: u32 = 8;

/// Why a file tells nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum MetadataError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no GGUF file of version 2 or 3")]
    NotGguf,
    #[error("its metadata says {0}, which no sound file does")]
    Unsound(&'static str),
}

pub(super) fn describe(path: &Path, arrays: Arrays) -> Result<Description, MetadataError> {
    read(&mut BufReader::with_capacity(256 * 1024, File::open(path)?), arrays)
}

fn read(file: &mut impl Read, arrays: Arrays) -> Result<Description, MetadataError> {
    let head = bytes::<8>(file)?;
    if !matches!(&head, b"GGUF\x02\0\0\0" | b"GGUF\x03\0\0\0") {
        return Err(MetadataError::NotGguf);
    }
    let tensors = number(file)?;
    let keys = number(file)?;
    if keys > KEYS_MAX || tensors > TENSORS_MAX {
        return Err(MetadataError::Unsound("that it has too many keys or tensors"));
    }
    let mut info = Map::new();
    for _ in 0..keys {
        let key = text(file)?.ok_or(MetadataError::Unsound("that a key is a megabyte long"))?;
        let kind = u32::from_le_bytes(bytes(file)?);
        info.insert(key, value(file, kind, arrays)?);
    }
    // A file cut short after its metadata still says what it would have been.
    let parameters = count_parameters(file, tensors).ok();
    let template = match info.shift_remove("tokenizer.chat_template") {
        Some(Value::String(text)) => Some(text),
        Some(_) | None => None,
    };
    let license = info.get("general.license").and_then(Value::as_str).map(str::to_owned);
    if let Some(parameters) = parameters {
        info.insert("general.parameter_count".to_owned(), parameters.into());
    }
    Ok(Description { info, template, license, parameters })
}

fn count_parameters(file: &mut impl Read, tensors: u64) -> Result<u64, MetadataError> {
    let mut all = 0_u64;
    for _ in 0..tensors {
        let _name = text(file)?;
        let dimensions = u32::from_le_bytes(bytes(file)?);
        if dimensions > DIMENSIONS_MAX {
            return Err(MetadataError::Unsound("that a tensor has many dimensions"));
        }
        let mut size = 1_u64;
        for _ in 0..dimensions {
            size = size.saturating_mul(number(file)?);
        }
        all = all.saturating_add(size);
        let _type_and_offset = bytes::<12>(file)?;
    }
    Ok(all)
}

const ARRAY: u32 = 9;
const TEXT: u32 = 8;

fn value(file: &mut impl Read, kind: u32, arrays: Arrays) -> Result<Value, MetadataError> {
    if kind != ARRAY {
        return scalar(file, kind);
    }
    let kind = u32::from_le_bytes(bytes(file)?);
    let items = number(file)?;
    if items > ITEMS_MAX || kind == ARRAY {
        return Err(MetadataError::Unsound("that an array has too many items, or is of arrays"));
    }
    let mut whole = Vec::new();
    for _ in 0..items {
        let item = scalar(file, kind)?;
        if arrays == Arrays::Whole {
            whole.push(item);
        }
    }
    Ok(if arrays == Arrays::Whole { Value::Array(whole) } else { Value::Null })
}

fn scalar(file: &mut impl Read, kind: u32) -> Result<Value, MetadataError> {
    Ok(match kind {
        0 => bytes::<1>(file)?[0].into(),
        1 => i8::from_le_bytes(bytes(file)?).into(),
        2 => u16::from_le_bytes(bytes(file)?).into(),
        3 => i16::from_le_bytes(bytes(file)?).into(),
        4 => u32::from_le_bytes(bytes(file)?).into(),
        5 => i32::from_le_bytes(bytes(file)?).into(),
        6 => float(f32::from_le_bytes(bytes(file)?).into()),
        7 => (bytes::<1>(file)?[0] != 0).into(),
        TEXT => text(file)?.map_or(Value::Null, Value::String),
        10 => u64::from_le_bytes(bytes(file)?).into(),
        11 => i64::from_le_bytes(bytes(file)?).into(),
        12 => float(f64::from_le_bytes(bytes(file)?)),
        _ => return Err(MetadataError::Unsound("that a value is of a type that does not exist")),
    })
}

/// JSON has no infinity.
fn float(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// `None` for one that is too long to be kept.
fn text(file: &mut impl Read) -> Result<Option<String>, MetadataError> {
    let length = number(file)?;
    let mut rest = file.take(length);
    if length > KEPT_TEXT_BYTES_MAX {
        let passed = io::copy(&mut rest, &mut io::sink())?;
        return if passed == length { Ok(None) } else { Err(end()) };
    }
    let mut text = Vec::new();
    rest.read_to_end(&mut text)?;
    if text.len() as u64 == length {
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    } else {
        Err(end())
    }
}

fn end() -> MetadataError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

fn number(file: &mut impl Read) -> Result<u64, MetadataError> {
    Ok(u64::from_le_bytes(bytes(file)?))
}

fn bytes<const N: usize>(file: &mut impl Read) -> Result<[u8; N], MetadataError> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put_text(file: &mut Vec<u8>, text: &str) {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    }

    /// Two tensors, [3, 4] and [5]; metadata of some types, the template after the vocabulary.
    fn sample() -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(2_u64.to_le_bytes());
        file.extend(5_u64.to_le_bytes());
        put_text(&mut file, "general.architecture");
        file.extend(8_u32.to_le_bytes());
        put_text(&mut file, "llama");
        put_text(&mut file, "llama.context_length");
        file.extend(4_u32.to_le_bytes());
        file.extend(512_u32.to_le_bytes());
        put_text(&mut file, "llama.rope.freq_base");
        file.extend(6_u32.to_le_bytes());
        file.extend(10_000_f32.to_le_bytes());
        put_text(&mut file, "tokenizer.ggml.tokens");
        file.extend(9_u32.to_le_bytes());
        file.extend(8_u32.to_le_bytes());
        file.extend(2_u64.to_le_bytes());
        put_text(&mut file, "a");
        put_text(&mut file, "b");
        put_text(&mut file, "tokenizer.chat_template");
        file.extend(8_u32.to_le_bytes());
        put_text(&mut file, "{{ messages }}");
        for (name, dimensions) in [("one", vec![3_u64, 4]), ("two", vec![5])] {
            put_text(&mut file, name);
            file.extend(u32::try_from(dimensions.len()).unwrap().to_le_bytes());
            dimensions.iter().for_each(|size| file.extend(size.to_le_bytes()));
            file.extend([0; 12]);
        }
        file
    }

    #[test]
    fn everything_is_told_and_arrays_only_when_they_are_wanted() {
        let short = read(&mut &sample()[..], Arrays::Null).unwrap();
        assert_eq!(short.template.as_deref(), Some("{{ messages }}"));
        assert_eq!(short.parameters, Some(17));
        assert_eq!(
            Value::Object(short.info),
            json!({
                "general.architecture": "llama", "llama.context_length": 512,
                "llama.rope.freq_base": 10000.0, "tokenizer.ggml.tokens": null,
                "general.parameter_count": 17,
            })
        );
        let long = read(&mut &sample()[..], Arrays::Whole).unwrap();
        assert_eq!(long.info["tokenizer.ggml.tokens"], json!(["a", "b"]));
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_or_tells_less_but_never_nonsense() {
        let whole = sample();
        let metadata_end = whole.len() - (8 + 3 + 4 + 16 + 12) - (8 + 3 + 4 + 8 + 12);
        for cut in 0..whole.len() {
            let cut_short = read(&mut &whole[..cut], Arrays::Null);
            assert_eq!(cut_short.is_ok(), cut >= metadata_end, "cut at {cut}");
            assert!(cut_short.is_err() || cut_short.unwrap().parameters.is_none());
        }
    }

    #[test]
    fn lengths_that_lie_cost_nothing() {
        let mut lying = sample();
        lying[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read(&mut &lying[..], Arrays::Null), Err(MetadataError::Io(_))));
        let mut many = sample();
        many[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read(&mut &many[..], Arrays::Null), Err(MetadataError::Unsound(_))));
    }
}
