//! The process: its end, and its children.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use super::guard::hook;

static REGISTERED: Once = Once::new();

/// How many forks lie between this process and the one that loaded us.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A number that differs between a process and its forked children: what was
/// made under another number belongs to the parent, whose threads and locks
/// are not here.
#[inline]
pub(crate) fn generation() -> u32 {
    #[cfg(feature = "simulation")]
    if let Some(world) = litestream::tasks::simulated::current() {
        return world.process_id();
    }
    GENERATION.load(Ordering::Relaxed)
}

/// Watches for forks, and has [`crate::runtime::flush`] run when the process
/// exits. Called when the first database is about to be replicated.
pub(crate) fn watch() {
    REGISTERED.call_once(|| {
        // SAFETY: functions without arguments in a library that is never
        // unloaded (SQLITE_OK_LOAD_PERMANENTLY). The child's handler only adds
        // to an atomic. When registration fails for want of memory, exits do
        // not flush and forks are not noticed, which harms no data.
        unsafe {
            libc::pthread_atfork(None, None, Some(in_child));
            libc::atexit(at_exit);
        }
    });
}

/// The generation that has closed its parent's files.
static CLOSED: Mutex<u32> = Mutex::new(0);

/// Closes what a forked child has of its parent's files of ours, before it opens
/// the same files itself, once: a descriptor that is closed later would take the
/// child's locks with it. The parent's locks belong to the parent's number.
pub(crate) fn close_inherited() {
    // Held to the end: nobody opens a file before the inherited ones are closed.
    let mut closed = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::replace(&mut *closed, generation()) == generation() {
        return;
    }
    for descriptor in litestream::os::disk::inherited_descriptors() {
        // SAFETY: the descriptor was opened by this library in the parent, and
        // still leads to the same file; whatever owns it there is leaked here by
        // `runtime`, which is the only caller, so nobody closes it again.
        unsafe { libc::close(descriptor) };
    }
}

unsafe extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn at_exit() {
    hook((), crate::runtime::flush);
}
