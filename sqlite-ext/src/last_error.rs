//! Why the last open on this thread failed: SQLite carries only a number out
//! of `xOpen`, so the text waits here for `litestream_last_error()`.

use std::cell::RefCell;

thread_local! {
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Remembers `text` for this thread.
pub(crate) fn set(text: impl Into<String>) {
    let text = text.into();
    // A thread that is ending has lost its store, and nobody left to ask.
    let _ = TEXT.try_with(|t| *t.borrow_mut() = text);
}

/// Forgets what an earlier open left.
pub(crate) fn clear() {
    let _ = TEXT.try_with(|t| t.borrow_mut().clear());
}

/// The text of this thread; empty when the last open succeeded.
pub(crate) fn get() -> String {
    TEXT.try_with(|t| t.borrow().clone()).unwrap_or_default()
}
