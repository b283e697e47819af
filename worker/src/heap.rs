//! Makes the heap give freed memory back to the system.
//!
//! The hand-over calls it around a load. Blocks of megabytes are freed then that never come again;
//! glibc takes the first ones for a habit and would keep the rest for later.

/// From now on large blocks go back to the system when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc has no other way to say it")]
pub(crate) fn return_large_blocks() {
    /// glibc's own threshold at the start of a process; naming it stops its growing.
    const LARGE_BYTES: libc::c_int = 128 * 1024;
    // SAFETY: the call takes two numbers and may be made at any time. It can only fail, which
    // leaves everything as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Returns what is free already.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc has no other way to say it")]
pub(crate) fn release() {
    // SAFETY: the call takes no pointer and may be made from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators return large blocks by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn return_large_blocks() {}

/// Other allocators return large blocks by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn release() {}
