//! The process's store of replicated databases, made at the first one. Threads
//! do not survive `fork()`, so a child that opens a database makes its own.

use std::sync::{Arc, Mutex, PoisonError};

use litestream::store::Store;

use crate::ffi::process::{generation, watch};
use crate::log::Sink;

/// The store and the process generation that it belongs to.
static STORE: Mutex<Option<(u32, Arc<Store>)>> = Mutex::new(None);

/// The store of this process.
pub(crate) fn store() -> Arc<Store> {
    watch();
    let mut slot = STORE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((owner, store)) = &*slot
        && *owner == generation()
    {
        return Arc::clone(store);
    }
    let store = Store::new(Arc::new(Sink::from_environment()));
    let inherited = slot.replace((generation(), Arc::clone(&store)));
    // The parent's threads are not here to be ended; its store is left alone.
    std::mem::forget(inherited);
    store
}

/// Ships what the databases of this process still hold; nothing in a child
/// that never opened one.
pub(crate) fn flush() {
    // Whoever holds the lock is another thread in the midst of an open, or was
    // one when this process was forked.
    let Ok(slot) = STORE.try_lock() else { return };
    let mine = slot.as_ref().filter(|(owner, _)| *owner == generation());
    let store = mine.map(|(_, store)| Arc::clone(store));
    drop(slot);
    if let Some(store) = store {
        store.flush_all();
    }
}
