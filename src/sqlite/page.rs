//! Pages and their places in the database file.

/// Byte offset of page `pgno` in the database file; page 1 is at 0.
pub fn offset(pgno: u32, page_size: u32) -> u64 {
    u64::from(pgno.saturating_sub(1)) * u64::from(page_size)
}

/// Whole pages in a file of `file_size` bytes; `None` when that is no page
/// count or `page_size` is 0.
pub fn count(file_size: u64, page_size: u32) -> Option<u32> {
    u32::try_from(file_size.checked_div(u64::from(page_size))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(offset(1, 4096), 0);
        assert_eq!(offset(u32::MAX, 65536), (u64::from(u32::MAX) - 1) * 65536);
        assert_eq!(count(8192, 4096), Some(2));
        assert_eq!(count(8191, 4096), Some(1));
        assert_eq!(count(1, 0), None);
        assert_eq!(count(u64::MAX, 512), None);
    }
}
