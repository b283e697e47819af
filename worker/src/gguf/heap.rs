//! Gives freed memory back to the system after a load.
//!
//! The hand-over calls it once the originals of the weights are gone. glibc would keep them for
//! later, since it takes large blocks that were freed once for a habit; they never come again.

/// Returns whole free pages of the heap to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc has no other way to say it")]
pub(super) fn release() {
    // SAFETY: the call takes no pointer and may be made from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators return large blocks by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn release() {}
