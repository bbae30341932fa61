//! Asks for memory before it is needed.
//!
//! A delivery to a thousand members walks over a thousand structs that the
//! kernel's work in between has pushed out of the caches. To wait for each of
//! them costs as much as all that is done with it.

/// Asks for all of `thing`; does nothing where there is no stable way.
#[inline]
pub(crate) fn prefetch<T>(thing: &T) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "a hint about memory that the reference vouches for; it changes nothing")]
    for at in (0..size_of::<T>()).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: `at` lies within `thing`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(thing).cast::<i8>().add(at)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = thing;
}

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;
