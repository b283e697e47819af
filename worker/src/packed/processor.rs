//! Whether this processor can run our product.
//!
//! The graph's owner asks before anything is packed. A [`Processor`] is the proof that it was asked:
//! who holds one may call what needs the instructions.

#[cfg(not(target_arch = "x86_64"))]
use super::{Group, ROWS, activation::Block, rows::Norm};

/// A processor with the instructions that the product is written in.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processor(());

#[cfg(target_arch = "x86_64")]
impl Processor {
    /// `None` on an x86-64 from before 2013.
    pub(crate) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }
}

/// There is none: the product has not been written for this architecture.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug, Clone, Copy)]
pub(crate) enum Processor {}

#[cfg(not(target_arch = "x86_64"))]
impl Processor {
    /// Always `None`.
    pub(crate) fn detect() -> Option<Self> {
        None
    }

    pub(super) fn round(self, _values: &[f32], _blocks: &mut [Block]) {
        match self {}
    }

    pub(super) fn norm(
        self,
        _rows: (&[f32], &[f32]),
        _by: &Norm,
        _sum: &mut [f32],
        _to: &mut [Block],
    ) {
        match self {}
    }

    pub(super) fn gate(self, _gates: &mut [f32; ROWS], _ups: &[f32; ROWS]) {
        match self {}
    }

    pub(super) fn multiply<const M: usize>(
        self,
        _group: Group<'_>,
        _rows: [&[Block]; M],
    ) -> [[f32; ROWS]; M] {
        match self {}
    }
}
