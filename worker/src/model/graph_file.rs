//! A look into an ONNX file: which operators it uses, and whether its weights are all there.
//!
//! ONNX Runtime would find both out by itself, but late, and in words that help nobody: a download
//! that lacks half of its weights should say so. Walks the protocol buffer and skips the weights,
//! so it reads a small part of the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use super::ModelError;

/// What the walk found.
#[derive(Debug, Default)]
pub(super) struct Facts {
    operators: BTreeSet<String>,
    inputs: BTreeSet<String>,
    outputs: BTreeSet<String>,
    /// External files by name, with how many bytes each must have.
    external: BTreeMap<String, u64>,
}

impl Facts {
    pub(super) fn has_operator(&self, name: &str) -> bool {
        self.operators.contains(name)
    }

    /// The names of what the graph takes.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(String::as_str)
    }

    pub(super) fn has_output(&self, name: &str) -> bool {
        self.outputs.contains(name)
    }
}

/// Looks into the file and at the files that it refers to.
///
/// # Errors
/// [`ModelError::Read`] or [`ModelError::Broken`], naming the file that is missing or too short.
pub(super) fn check(path: &Path) -> Result<Facts, ModelError> {
    let facts = walk(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ModelError::Broken {
            path: path.to_owned(),
            reason: format!("it is no ONNX graph, or cut short ({error})"),
        },
        _ => ModelError::Read { path: path.to_owned(), source: error },
    })?;
    for (name, &bytes_needed) in &facts.external {
        let file = beside(path, name)?;
        let found = std::fs::metadata(&file)
            .map_err(|source| ModelError::Read { path: file.clone(), source })?;
        if found.len() < bytes_needed {
            return Err(ModelError::Broken {
                path: file,
                reason: format!(
                    "it has {} of the {bytes_needed} bytes that the graph needs; fetch it again",
                    found.len()
                ),
            });
        }
    }
    Ok(facts)
}

/// Where weights lie is for the model's maker to say, but only below the model's own folder.
///
/// # Errors
/// [`ModelError::Broken`].
pub(crate) fn beside(graph: &Path, name: &str) -> Result<PathBuf, ModelError> {
    let inside = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match graph.parent() {
        Some(folder) if inside => Ok(folder.join(name)),
        Some(_) | None => Err(ModelError::Broken {
            path: graph.to_owned(),
            reason: format!("its weights are said to lie outside of its folder, in `{name}`"),
        }),
    }
}

// Field numbers of onnx.proto.
const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;
const VALUE_NAME: u64 = 1;
const NODE_OPERATOR: u64 = 4;
const TENSOR_EXTERNAL_DATA: u64 = 13;
const ENTRY_KEY: u64 = 1;
const ENTRY_VALUE: u64 = 2;

/// Names and paths are short; anything longer here is no ONNX.
const TEXT_BYTES_MAX: u64 = 4096;

fn walk(path: &Path) -> io::Result<Facts> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let mut reader = Reader { bytes: BufReader::new(file), at: 0 };
    let mut facts = Facts::default();
    while let Some((field, length)) = reader.next_field(end)? {
        match field {
            MODEL_GRAPH => walk_graph(&mut reader, length, &mut facts)?,
            _ => reader.skip(length)?,
        }
    }
    Ok(facts)
}

fn walk_graph(reader: &mut Reader, length: u64, facts: &mut Facts) -> io::Result<()> {
    let end = reader.at + length;
    while let Some((field, length)) = reader.next_field(end)? {
        match field {
            GRAPH_NODE => walk_node(reader, length, facts)?,
            GRAPH_INITIALIZER => walk_tensor(reader, length, facts)?,
            GRAPH_INPUT => facts.inputs.extend(value_name(reader, length)?),
            GRAPH_OUTPUT => facts.outputs.extend(value_name(reader, length)?),
            _ => reader.skip(length)?,
        }
    }
    Ok(())
}

fn walk_node(reader: &mut Reader, length: u64, facts: &mut Facts) -> io::Result<()> {
    let end = reader.at + length;
    while let Some((field, length)) = reader.next_field(end)? {
        match field {
            NODE_OPERATOR => {
                facts.operators.insert(reader.text(length)?);
            }
            _ => reader.skip(length)?,
        }
    }
    Ok(())
}

fn walk_tensor(reader: &mut Reader, length: u64, facts: &mut Facts) -> io::Result<()> {
    let end = reader.at + length;
    let mut entries = BTreeMap::new();
    while let Some((field, length)) = reader.next_field(end)? {
        match field {
            TENSOR_EXTERNAL_DATA => {
                let (key, value) = entry(reader, length)?;
                entries.insert(key, value);
            }
            _ => reader.skip(length)?,
        }
    }
    let number = |key: &str| entries.get(key).map_or(Ok(0), |text| text.parse::<u64>());
    if let Some(location) = entries.get("location") {
        let end = number("offset").and_then(|offset| Ok(offset.saturating_add(number("length")?)));
        let end = end.map_err(|error| invalid(&error.to_string()))?;
        let needed = facts.external.entry(location.clone()).or_default();
        *needed = end.max(*needed);
    }
    Ok(())
}

fn value_name(reader: &mut Reader, length: u64) -> io::Result<Option<String>> {
    let end = reader.at + length;
    let mut name = None;
    while let Some((field, length)) = reader.next_field(end)? {
        match field {
            VALUE_NAME => name = Some(reader.text(length)?),
            _ => reader.skip(length)?,
        }
    }
    Ok(name)
}

fn entry(reader: &mut Reader, length: u64) -> io::Result<(String, String)> {
    let end = reader.at + length;
    let (mut key, mut value) = (String::new(), String::new());
    while let Some((field, length)) = reader.next_field(end)? {
        match field {
            ENTRY_KEY => key = reader.text(length)?,
            ENTRY_VALUE => value = reader.text(length)?,
            _ => reader.skip(length)?,
        }
    }
    Ok((key, value))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

struct Reader {
    bytes: BufReader<File>,
    at: u64,
}

impl Reader {
    /// The number and the length of the next field that has a length; others are skipped.
    fn next_field(&mut self, end: u64) -> io::Result<Option<(u64, u64)>> {
        while self.at < end {
            let tag = self.varint()?;
            match tag & 7 {
                0 => {
                    self.varint()?;
                }
                1 => self.skip(8)?,
                2 => {
                    let length = self.varint()?;
                    if length > end.saturating_sub(self.at) {
                        return Err(invalid("a field exceeds its message"));
                    }
                    return Ok(Some((tag >> 3, length)));
                }
                5 => self.skip(4)?,
                _ => return Err(invalid("an unknown wire type")),
            }
        }
        if self.at > end {
            return Err(invalid("a field exceeds its message"));
        }
        Ok(None)
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0_u8];
            self.bytes.read_exact(&mut byte)?;
            self.at += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(invalid("a number of more than 64 bits"))
    }

    fn text(&mut self, length: u64) -> io::Result<String> {
        if length > TEXT_BYTES_MAX {
            return Err(invalid("a name is too long"));
        }
        let mut text = String::new();
        self.bytes.by_ref().take(length).read_to_string(&mut text)?;
        self.at += length;
        Ok(text)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let offset = i64::try_from(length).map_err(|_error| invalid("a field is too long"))?;
        // Relative, and within the buffer where it can, so that small fields cost no system call.
        self.bytes.seek_relative(offset)?;
        self.at += length;
        Ok(())
    }
}
