//! How much a piece of code allocates.

/// Runs `code` and checks that at no time it held more than `limit` bytes of the heap beyond what
/// was held before; with a limit of 0, that it did not allocate at all.
///
/// # Panics
///
/// If it did.
pub fn at_most<T>(limit: usize, code: impl FnOnce() -> T) -> T {
    let mut result = None;
    let used = allocation_counter::measure(|| result = Some(code()));
    assert!(
        used.bytes_max <= limit as u64,
        "{} bytes of heap, more than {limit}",
        used.bytes_max
    );
    match result {
        Some(result) => result,
        None => unreachable!("the closure ran"),
    }
}
