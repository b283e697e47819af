//! The GGUF container: header, metadata, tensor table. Versions 2 and 3, little-endian.
//!
//! `gguf::open` reads one; facts, vocabulary and weights ask it. It never copies tensor data, and
//! no number in the file makes it allocate more than the file is long.
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{collections::BTreeMap, path::Path};

use super::{
    GgufError, TensorProblem,
    cursor::Cursor,
    error::shown,
    metadata::{Metadata, Question, Scalar, Value},
    tensor::{Tensor, TensorType},
};
use crate::mapped::Bytes;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_DEFAULT: u64 = 32;
/// Key length 8, type 4, and a value of at least one byte.
const METADATA_BYTES_MIN: usize = 13;
/// Name length 8, rank 4, one dimension 8, type 4, offset 8.
const TENSOR_BYTES_MIN: usize = 32;

/// An open file whose every length and offset was checked.
#[derive(Debug)]
pub(super) struct GgufFile {
    bytes: Bytes,
    metadata: Metadata,
    tensors: BTreeMap<String, Tensor>,
}

impl GgufFile {
    /// Maps and reads `path`.
    ///
    /// # Errors
    /// Any of [`GgufError`] but those of facts, vocabulary and graph.
    pub(super) fn open(path: &Path) -> Result<Self, GgufError> {
        let opened = Bytes::map(path);
        Self::read(opened.map_err(|source| GgufError::Open { path: path.to_owned(), source })?)
    }

    /// Reads a file that is in memory already.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::read(Bytes::Owned(bytes))
    }

    fn read(bytes: Bytes) -> Result<Self, GgufError> {
        let (metadata, tensors) = parse(&bytes)?;
        Ok(Self { bytes, metadata, tensors })
    }

    pub(super) fn ask(&self) -> Question<'_> {
        Question { metadata: &self.metadata, bytes: &self.bytes }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor and the shape that it must have, fastest dimension first.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`]; [`GgufError::Tensor`] if the shape is another.
    pub(super) fn needed_tensor(&self, name: &str, shape: &[usize]) -> Result<&Tensor, GgufError> {
        let missing = || GgufError::MissingTensor { name: name.to_owned() };
        let tensor = self.tensors.get(name).ok_or_else(missing)?;
        if tensor.shape == shape {
            return Ok(tensor);
        }
        let problem =
            TensorProblem::Shape { found: tensor.shape.clone(), expected: shape.to_vec() };
        Err(GgufError::Tensor { name: name.to_owned(), problem })
    }

    /// Takes bytes of a tensor that have been copied out of this process's memory.
    pub(super) fn leave(&self, tensor: &Tensor, bytes: std::ops::Range<usize>) {
        let start = tensor.range.start;
        self.bytes.leave(start + bytes.start..start + bytes.end);
    }

    pub(super) fn data(&self, tensor: &Tensor) -> &[u8] {
        &self.bytes[tensor.range.clone()]
    }
}

type Contents = (Metadata, BTreeMap<String, Tensor>);

fn parse(bytes: &Bytes) -> Result<Contents, GgufError> {
    let mut cursor = Cursor::at(bytes, 0);
    if bytes.first_chunk() != Some(MAGIC) {
        let found = bytes.iter().copied().take(MAGIC.len()).collect();
        return Err(GgufError::NotGguf { found });
    }
    cursor.skip("the magic number", 4)?;
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { found: version });
    }
    let tensor_count = cursor.u64("the tensor count")?;
    let metadata_count = cursor.count("the metadata count", METADATA_BYTES_MIN)?;
    let mut metadata = Metadata::default();
    for _ in 0..metadata_count {
        let key = cursor.text("a metadata key")?.to_owned();
        let value = value(&mut cursor, &key)?;
        metadata.insert(key, value)?;
    }
    let count = cursor.holds("the tensor count", tensor_count, TENSOR_BYTES_MIN)?;
    let entries =
        (0..count).map(|_| Entry::read(&mut cursor)).collect::<Result<Vec<_>, GgufError>>()?;
    let alignment = alignment(Question { metadata: &metadata, bytes })?;
    let tensors = place(entries, &mut cursor, alignment)?;
    Ok((metadata, tensors))
}

fn value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    const ARRAY: u32 = 9;
    let unread = |found| GgufError::ValueType { key: shown(key), found };
    let id = cursor.u32("a metadata value's type")?;
    let (scalar, count) = if id == ARRAY {
        let element = cursor.u32("an array's type")?;
        let scalar = Scalar::from_id(element).ok_or_else(|| unread(element))?;
        (scalar, Some(cursor.count("a metadata array", scalar.bytes_min())?))
    } else {
        (Scalar::from_id(id).ok_or_else(|| unread(id))?, None)
    };
    let start = cursor.position();
    let values = count.unwrap_or(1);
    if scalar == Scalar::String {
        for _ in 0..values {
            cursor.skip_text("a metadata text")?;
        }
    } else {
        // Can't overflow: `count` was checked against what is left of the file.
        cursor.skip("a metadata value", (values * scalar.bytes_min()) as u64)?;
    }
    Ok(Value { scalar, count, range: start..cursor.position() })
}

fn alignment(ask: Question<'_>) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    match ask.unsigned(KEY)? {
        None => Ok(ALIGNMENT_DEFAULT),
        Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 20 => Ok(alignment),
        Some(_) => Err(GgufError::BadValue { key: KEY.to_owned(), expected: "a power of two" }),
    }
}

/// A row of the tensor table, before it is known where the data starts.
struct Entry {
    name: String,
    shape: Vec<usize>,
    kind: TensorType,
    offset: u64,
    size: usize,
}

impl Entry {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufError> {
        let name = cursor.text("a tensor's name")?.to_owned();
        let wrong = |problem| GgufError::Tensor { name: shown(&name), problem };
        let rank = cursor.u32("a tensor's rank")?;
        if !(1..=4).contains(&rank) {
            return Err(wrong(TensorProblem::Rank(rank)));
        }
        let dimensions = (0..rank)
            .map(|_| cursor.u64("a tensor's dimension"))
            .collect::<Result<Vec<u64>, GgufError>>()?;
        let type_id = cursor.u32("a tensor's type")?;
        let offset = cursor.u64("a tensor's offset")?;
        let kind =
            TensorType::from_id(type_id).ok_or_else(|| wrong(TensorProblem::Type(type_id)))?;
        let shape = dimensions
            .iter()
            .map(|&dimension| usize::try_from(dimension).ok().filter(|&size| size > 0))
            .collect::<Option<Vec<usize>>>();
        let size = shape.as_deref().and_then(|shape| kind.size_bytes(shape));
        let (Some(shape), Some(size)) = (shape, size) else {
            return Err(wrong(TensorProblem::Dimensions(dimensions)));
        };
        if !shape[0].is_multiple_of(kind.block()) {
            return Err(wrong(TensorProblem::Blocks { row: shape[0], block: kind.block() }));
        }
        Ok(Self { name, shape, kind, offset, size })
    }
}

/// Finds every tensor's data behind the table.
fn place(
    entries: Vec<Entry>,
    cursor: &mut Cursor<'_>,
    alignment: u64,
) -> Result<BTreeMap<String, Tensor>, GgufError> {
    let table_end = cursor.position() as u64;
    let padding = table_end.next_multiple_of(alignment) - table_end;
    if !entries.is_empty() {
        cursor.skip("the padding before the tensors", padding)?;
    }
    let mut tensors = BTreeMap::new();
    for Entry { name, shape, kind, offset, size } in entries {
        let wrong = |problem| GgufError::Tensor { name: shown(&name), problem };
        if !offset.is_multiple_of(alignment) {
            return Err(wrong(TensorProblem::Alignment(offset)));
        }
        let start = usize::try_from(offset).ok().filter(|&start| start <= cursor.left());
        let range = start
            .filter(|&start| size <= cursor.left() - start)
            .map(|start| cursor.position() + start..cursor.position() + start + size)
            .ok_or_else(|| wrong(TensorProblem::PastEnd { offset, size }))?;
        let duplicate = GgufError::Duplicate { what: "tensor", name: shown(&name) };
        if tensors.insert(name, Tensor { shape, kind, range }).is_some() {
            return Err(duplicate);
        }
    }
    Ok(tensors)
}
