//! Metadata values: where each stands in the file, and typed questions about them.
//!
//! The reader fills it; facts and vocabulary ask. Strings and arrays stay in the file: a value is a
//! range that was walked once and is known to lie inside.

use std::{collections::BTreeMap, ops::Range};

use super::{GgufError, cursor::Cursor, error::shown};
use crate::mapped::Bytes;

/// GGUF's scalar value types, by their numbers in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

impl Scalar {
    pub(super) fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of one value; of a string, the least it takes.
    pub(super) fn bytes_min(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::String | Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// One value, or an array of them.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) scalar: Scalar,
    /// `None` for a value that stands alone.
    pub(super) count: Option<usize>,
    pub(super) range: Range<usize>,
}

/// All metadata of one file.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    values: BTreeMap<String, Value>,
}

/// A borrowed view that knows both the values and the file they stand in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) bytes: &'a Bytes,
}

impl Metadata {
    /// Keeps `value` under `key`.
    ///
    /// # Errors
    /// [`GgufError::Duplicate`] if the key is taken.
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<(), GgufError> {
        let name = shown(&key);
        match self.values.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(GgufError::Duplicate { what: "metadata", name }),
        }
    }
}

impl<'a> Question<'a> {
    /// An unsigned whole number of any width.
    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let expected = "a whole number, zero or more";
        let Some(numbers) = self.integers(key, None, expected)? else {
            return Ok(None);
        };
        let bad = || GgufError::BadValue { key: key.to_owned(), expected };
        let number = numbers.first().copied().ok_or_else(bad)?;
        u64::try_from(number).map(Some).or(Err(bad()))
    }

    /// The same, as `usize`, for what counts things in memory.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let Some(number) = self.unsigned(key)? else {
            return Ok(None);
        };
        let bad = GgufError::BadValue { key: key.to_owned(), expected: "a smaller number" };
        usize::try_from(number).map(Some).or(Err(bad))
    }

    /// A `size` that must be there and above zero.
    pub(super) fn needed_size(&self, key: &str) -> Result<usize, GgufError> {
        match self.size(key)? {
            None => Err(GgufError::MissingKey { key: key.to_owned() }),
            Some(0) => Err(GgufError::BadValue { key: key.to_owned(), expected: "more than zero" }),
            Some(size) => Ok(size),
        }
    }

    /// An array of whole numbers, as wide as any GGUF type.
    pub(super) fn integer_array(&self, key: &str) -> Result<Option<Vec<i128>>, GgufError> {
        let expected = "an array of whole numbers";
        match self.metadata.values.get(key) {
            None => Ok(None),
            Some(value) if value.count.is_none() => {
                Err(GgufError::BadValue { key: key.to_owned(), expected })
            }
            Some(value) => self.integers(key, value.count, expected),
        }
    }

    fn integers(
        &self,
        key: &str,
        count: Option<usize>,
        expected: &'static str,
    ) -> Result<Option<Vec<i128>>, GgufError> {
        let Some(value) = self.metadata.values.get(key) else {
            return Ok(None);
        };
        let bad = || GgufError::BadValue { key: key.to_owned(), expected };
        if value.count != count {
            return Err(bad());
        }
        let data = &self.bytes[value.range.clone()];
        let chunks = data.chunks_exact(value.scalar.bytes_min());
        let numbers: Option<Vec<i128>> = chunks.map(|chunk| integer(value.scalar, chunk)).collect();
        numbers.map(Some).ok_or_else(bad)
    }

    /// A floating-point number.
    pub(super) fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        let Some(value) = self.metadata.values.get(key) else {
            return Ok(None);
        };
        let bad = GgufError::BadValue { key: key.to_owned(), expected: "a finite number" };
        match self.floats_of(value) {
            Some(floats) if value.count.is_none() && floats.iter().all(|x| x.is_finite()) => {
                Ok(floats.first().copied())
            }
            Some(_) | None => Err(bad),
        }
    }

    /// An array of floating-point numbers.
    pub(super) fn float_array(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        let Some(value) = self.metadata.values.get(key) else {
            return Ok(None);
        };
        let bad = GgufError::BadValue { key: key.to_owned(), expected: "an array of numbers" };
        match self.floats_of(value) {
            Some(floats) if value.count.is_some() => Ok(Some(floats)),
            Some(_) | None => Err(bad),
        }
    }

    fn floats_of(&self, value: &Value) -> Option<Vec<f32>> {
        (value.scalar == Scalar::F32).then(|| {
            let (chunks, _) = self.bytes[value.range.clone()].as_chunks::<4>();
            chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
        })
    }

    /// True or false.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        let Some(value) = self.metadata.values.get(key) else {
            return Ok(None);
        };
        match (value.scalar, value.count, &self.bytes[value.range.clone()]) {
            (Scalar::Bool, None, [byte]) => Ok(Some(*byte != 0)),
            _ => Err(GgufError::BadValue { key: key.to_owned(), expected: "true or false" }),
        }
    }

    /// One text.
    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        let Some(value) = self.metadata.values.get(key) else {
            return Ok(None);
        };
        if value.scalar != Scalar::String || value.count.is_some() {
            return Err(GgufError::BadValue { key: key.to_owned(), expected: "a text" });
        }
        self.texts(value, 1).map(|texts| texts.first().copied())
    }

    /// An array of texts.
    pub(super) fn string_array(&self, key: &str) -> Result<Option<Vec<&'a str>>, GgufError> {
        let Some(value) = self.metadata.values.get(key) else {
            return Ok(None);
        };
        match (value.scalar, value.count) {
            (Scalar::String, Some(count)) => self.texts(value, count).map(Some),
            _ => Err(GgufError::BadValue { key: key.to_owned(), expected: "an array of texts" }),
        }
    }

    fn texts(&self, value: &Value, count: usize) -> Result<Vec<&'a str>, GgufError> {
        let mut cursor = Cursor::at(self.bytes, value.range.start);
        (0..count).map(|_| cursor.text("a metadata text")).collect()
    }
}

/// `chunk` is exactly as long as the type.
fn integer(scalar: Scalar, chunk: &[u8]) -> Option<i128> {
    let signed = matches!(scalar, Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64);
    let unsigned = matches!(scalar, Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64);
    if !signed && !unsigned {
        return None;
    }
    let negative = signed && chunk.last().is_some_and(|top| top & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    wide.get_mut(..chunk.len())?.copy_from_slice(chunk);
    Some(i128::from_le_bytes(wide))
}
