//! The product of rounded rows with one group, in AVX2.
//!
//! `operator` calls it for each group of a matrix. Sums of a block are whole numbers, and blocks are
//! added in their order whatever stands beside: a row's outputs are the same bits alone and in a batch.
#![expect(unsafe_code, reason = "processor instructions, and loads of 16 and 32 bytes")]

use std::{
    arch::x86_64::{
        __m128i, __m256, __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_abs_epi8, _mm256_add_epi16,
        _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps,
        _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8,
        _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_setzero_si256, _mm256_sign_epi8, _mm256_srli_epi16,
    },
    mem::transmute,
};

use super::{Eight, Four, Group, Processor, ROWS, activation, activation::Block, rows::Norm};

#[expect(clippy::unused_self, reason = "a `Processor` proves that the instructions are there")]
impl Processor {
    /// Rounds rows, as [`activation::round`] does.
    pub(super) fn round(self, values: &[f32], blocks: &mut [Block]) {
        // SAFETY: a `Processor` has the instructions.
        unsafe { round(values, blocks) }
    }

    /// Adds, norms and rounds a row, as [`activation::norm`] does.
    pub(super) fn norm(self, rows: (&[f32], &[f32]), by: &Norm, sum: &mut [f32], to: &mut [Block]) {
        // SAFETY: a `Processor` has the instructions.
        unsafe { norm(rows, by, sum, to) }
    }

    /// `silu(gate) × up` in place of the gates, as [`activation::gate`].
    pub(super) fn gate(self, gates: &mut [f32; ROWS], ups: &[f32; ROWS]) {
        // SAFETY: a `Processor` has the instructions.
        unsafe { gate(gates, ups) }
    }

    /// The outputs of `group` for `M` rows, each as long as the group.
    pub(super) fn multiply<const M: usize>(
        self,
        group: Group<'_>,
        rows: [&[Block]; M],
    ) -> [[f32; ROWS]; M] {
        // SAFETY: a `Processor` has the instructions.
        unsafe {
            match group {
                Group::Four(blocks) => four(blocks, rows),
                Group::Eight(blocks) => eight(blocks, rows),
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn round(values: &[f32], blocks: &mut [Block]) {
    activation::round(values, blocks);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn norm(rows: (&[f32], &[f32]), by: &Norm, sum: &mut [f32], to: &mut [Block]) {
    activation::norm(rows, by, sum, to);
}

#[target_feature(enable = "avx2,fma")]
fn gate(gates: &mut [f32; ROWS], ups: &[f32; ROWS]) {
    activation::gate(gates, ups);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn four<const M: usize>(group: &[Four], rows: [&[Block]; M]) -> [[f32; ROWS]; M] {
    let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_ps(); M];
    for (index, block) in group.iter().enumerate() {
        if M == 1 {
            ahead(block);
        }
        let (quotients, ends) = block.split_at(4 * 32);
        let (quotients, ends) = (quotients.as_chunks::<32>().0, ends.as_chunks().0);
        // At most 8 × 2 × 15 × 127 = 30,480: sums of pairs stay 16-bit numbers.
        let mut pairs = [_mm256_setzero_si256(); M];
        for (i, quotients) in quotients.iter().enumerate() {
            let both = load(quotients);
            let lows = _mm256_and_si256(both, low);
            let highs = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
            for (pairs, row) in pairs.iter_mut().zip(rows) {
                let words = &row[index].words;
                let left = _mm256_maddubs_epi16(lows, _mm256_set1_epi32(words[i]));
                let right = _mm256_maddubs_epi16(highs, _mm256_set1_epi32(words[4 + i]));
                *pairs = _mm256_add_epi16(*pairs, _mm256_add_epi16(left, right));
            }
        }
        let (scales, minima) = (halves(&ends[0]), halves(&ends[1]));
        for ((sum, pairs), row) in sums.iter_mut().zip(pairs).zip(rows) {
            let whole = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
            *sum = _mm256_fmadd_ps(minima, _mm256_set1_ps(row[index].sum), *sum);
            let scales = _mm256_mul_ps(scales, _mm256_set1_ps(row[index].scale));
            *sum = _mm256_fmadd_ps(scales, whole, *sum);
        }
    }
    stored(sums)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn eight<const M: usize>(group: &[Eight], rows: [&[Block]; M]) -> [[f32; ROWS]; M] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_ps(); M];
    for (index, block) in group.iter().enumerate() {
        if M == 1 {
            ahead(block);
        }
        let (quotients, ends) = block.as_chunks::<32>();
        let scales = halves(&ends.as_chunks().0[0]);
        let mut wholes = [_mm256_setzero_si256(); M];
        for (i, quotients) in quotients.iter().enumerate() {
            let quotients = load(quotients);
            let sizes = _mm256_abs_epi8(quotients);
            for (whole, row) in wholes.iter_mut().zip(rows) {
                let inputs = _mm256_set1_epi32(row[index].words[i]);
                // The signs go over to the inputs: at most 2 × 128 × 127, a 16-bit number.
                let pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(inputs, quotients));
                *whole = _mm256_add_epi32(*whole, _mm256_madd_epi16(pairs, ones));
            }
        }
        for ((sum, whole), row) in sums.iter_mut().zip(wholes).zip(rows) {
            let scales = _mm256_mul_ps(scales, _mm256_set1_ps(row[index].scale));
            *sum = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(whole), *sum);
        }
    }
    stored(sums)
}

/// Asks for what comes a good kilobyte later: with one row the weights come from memory as fast as it
/// gives them, a tenth faster if they are asked for. Groups follow one another, so it is of use at
/// a group's end too.
#[target_feature(enable = "avx2")]
fn ahead<const N: usize>(block: &[u8; N]) {
    const BYTES: usize = 1600;
    for line in 0..N.div_ceil(64) {
        let at = block.as_ptr().wrapping_add(BYTES + 64 * line);
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
}

#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: any 32 bytes are a vector of integers.
    unsafe { transmute(*bytes) }
}

#[target_feature(enable = "avx2,f16c")]
fn halves(bytes: &[u8; 16]) -> __m256 {
    // SAFETY: any 16 bytes are a vector of integers.
    _mm256_cvtph_ps(unsafe { transmute::<[u8; 16], __m128i>(*bytes) })
}

#[target_feature(enable = "avx2")]
fn stored<const M: usize>(sums: [__m256; M]) -> [[f32; ROWS]; M] {
    let mut out = [[0.0; ROWS]; M];
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: a vector of eight numbers is eight numbers.
        *out = unsafe { transmute::<__m256, [f32; ROWS]>(sum) };
    }
    out
}
