//! The process's store of replicated databases and its replicas, each made at the
//! first one. Threads do not survive `fork()`, so a child that opens a database
//! makes its own.

use std::sync::{Arc, Mutex, PoisonError};

use litestream::store::Store;
use litestream::view::Sources;

use crate::ffi::process::{close_inherited, generation, watch};
use crate::log::Sink;

/// One of a kind for each process, with the process generations that they belong
/// to. A parent's stays in its child: threads that are not here cannot be ended.
type PerProcess<T> = Mutex<Vec<(u32, Arc<T>)>>;

static STORES: PerProcess<Store> = Mutex::new(Vec::new());
static SOURCES: PerProcess<Sources> = Mutex::new(Vec::new());

/// The store of this process.
pub(crate) fn store() -> Arc<Store> {
    own(&STORES, |log| Store::new(log))
}

/// The replicas of this process.
pub(crate) fn sources() -> Arc<Sources> {
    own(&SOURCES, |log| Sources::new(log))
}

/// The one of this process, made at the first call.
fn own<T>(all: &PerProcess<T>, make: impl FnOnce(Arc<Sink>) -> Arc<T>) -> Arc<T> {
    watch();
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let mine = generation();
    if let Some((_, found)) = all.iter().find(|(owner, _)| *owner == mine) {
        return Arc::clone(found);
    }
    close_inherited();
    let made = make(Arc::new(Sink::from_environment()));
    all.push((mine, Arc::clone(&made)));
    made
}

/// Ships what the databases of this process still hold; nothing in a child
/// that never opened one.
pub(crate) fn flush() {
    // Whoever holds the lock is another thread in the midst of an open, or was
    // one when this process was forked.
    let Ok(stores) = STORES.try_lock() else { return };
    let mine = stores.iter().find(|(owner, _)| *owner == generation());
    let store = mine.map(|(_, store)| Arc::clone(store));
    drop(stores);
    if let Some(store) = store {
        store.flush_all();
    }
}

/// Takes the store of a simulated process that has ended.
#[cfg(feature = "simulation")]
pub(crate) fn take(owner: u32) -> Option<Arc<Store>> {
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let at = stores.iter().position(|(of, _)| *of == owner)?;
    Some(stores.swap_remove(at).1)
}
