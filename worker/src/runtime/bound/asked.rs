//! What ONNX Runtime says of a session when it is asked: which node runs where, where it wants its
//! inputs and outputs, and what an allocator holds.
//!
//! The loader asks once. These are questions of the C interface that have no safe form.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char};
use std::ptr;

use ort::memory::Allocator;
use ort::session::Session;
use ort::sys::{OrtDeviceMemoryType, OrtMemoryInfo, OrtMemoryInfoDeviceType};
use ort::{AsPointer, Error};

/// Has to be among a session's options for [`assignments`] to be answered.
pub(crate) const RECORD_ASSIGNMENTS: (&str, &str) =
    ("session.record_ep_graph_assignment_info", "1");

/// One node of the graph, as it was after the basic optimisations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// The execution provider's own name, `CPUExecutionProvider` and the like.
    pub(crate) provider: String,
    pub(crate) operator: String,
}

/// Which node was given to which execution provider.
///
/// # Errors
/// What ONNX Runtime says; the session's options may not have asked for it to be recorded.
pub(crate) fn assignments(session: &Session) -> ort::Result<Vec<Assignment>> {
    let api = ort::api();
    let mut nodes = Vec::new();
    let (mut subgraphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session is alive; what is returned belongs to it, is not changed while it lives,
    // and is left behind when this function returns. Counts are those of the arrays beside them.
    unsafe {
        let status = (api.Session_GetEpGraphAssignmentInfo)(
            session.ptr(),
            &raw mut subgraphs,
            &raw mut count,
        );
        Error::result_from_status(status)?;
        for &subgraph in slice(subgraphs, count) {
            let mut name = ptr::null();
            Error::result_from_status((api.EpAssignedSubgraph_GetEpName)(subgraph, &raw mut name))?;
            let (mut inside, mut count) = (ptr::null(), 0);
            let status =
                (api.EpAssignedSubgraph_GetNodes)(subgraph, &raw mut inside, &raw mut count);
            Error::result_from_status(status)?;
            for &node in slice(inside, count) {
                let mut operator = ptr::null();
                let status = (api.EpAssignedNode_GetOperatorType)(node, &raw mut operator);
                Error::result_from_status(status)?;
                nodes.push(Assignment { provider: text(name), operator: text(operator) });
            }
        }
    }
    Ok(nodes)
}

/// The names of the inputs and outputs that the session wants in a device's memory.
///
/// # Errors
/// What ONNX Runtime says.
pub(crate) fn wanted_on_device(session: &Session) -> ort::Result<BTreeSet<String>> {
    let api = ort::api();
    let mut inputs: Vec<*const OrtMemoryInfo> = vec![ptr::null(); session.inputs().len()];
    let mut outputs: Vec<*const OrtMemoryInfo> = vec![ptr::null(); session.outputs().len()];
    // SAFETY: the session is alive, each array has room for as many as are asked for, and what is
    // written into it belongs to the session.
    unsafe {
        let (session, count) = (session.ptr(), inputs.len());
        let status = (api.SessionGetMemoryInfoForInputs)(session, inputs.as_mut_ptr(), count);
        Error::result_from_status(status)?;
        let count = outputs.len();
        let status = (api.SessionGetMemoryInfoForOutputs)(session, outputs.as_mut_ptr(), count);
        Error::result_from_status(status)?;
    }
    let named = session.inputs().iter().zip(inputs).chain(session.outputs().iter().zip(outputs));
    let wanted = named.filter(|&(_, info)| is_of_device(info));
    Ok(wanted.map(|(outlet, _)| outlet.name().to_owned()).collect())
}

fn is_of_device(info: *const OrtMemoryInfo) -> bool {
    if info.is_null() {
        return false;
    }
    let mut kind = OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_CPU;
    // SAFETY: the session that the information belongs to is alive, and neither call keeps it.
    let memory = unsafe {
        (ort::api().MemoryInfoGetDeviceType)(info, &raw mut kind);
        (ort::api().MemoryInfoGetDeviceMemType)(info)
    };
    // Pinned memory counts as the device's and is the host's.
    kind != OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_CPU
        && memory != OrtDeviceMemoryType::OrtDeviceMemoryType_HOST_ACCESSIBLE
}

/// What an allocator says of itself, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// What it has from the device.
    pub(crate) total: u64,
    /// Of it, what somebody uses.
    pub(crate) in_use: u64,
}

/// How much the allocator holds; `None` if it keeps no count.
pub(crate) fn held(allocator: &Allocator) -> Option<Held> {
    let api = ort::api();
    let mut pairs = ptr::null_mut();
    // SAFETY: the allocator is alive. The pairs are ours to release, and numbers are copied out of
    // them before.
    unsafe {
        let status = (api.AllocatorGetStats)(allocator.ptr(), &raw mut pairs);
        Error::result_from_status(status).ok()?;
        if pairs.is_null() {
            return None;
        }
        let number = |key: &CStr| -> Option<u64> {
            let value = (api.GetKeyValue)(pairs, key.as_ptr());
            if value.is_null() { None } else { text(value).parse().ok() }
        };
        let held = number(c"TotalAllocated").zip(number(c"InUse"));
        (api.ReleaseKeyValuePairs)(pairs);
        held.map(|(total, in_use)| Held { total, in_use })
    }
}

/// # Safety
/// `count` elements lie there, or none and nothing; they live as long as the slice is used.
unsafe fn slice<'a, T>(start: *const T, count: usize) -> &'a [T] {
    if start.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for it.
    unsafe { std::slice::from_raw_parts(start, count) }
}

/// # Safety
/// A string that ends with a zero lies there, or nothing.
unsafe fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}
