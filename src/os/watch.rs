//! Being told that a process let a file go, without asking: the end of a
//! process closes its files whatever it dies of. One descriptor and one thread
//! for all files of a process, and nothing runs until something happens.
//!
//! Where the system cannot tell (no inotify, or its limits are reached), nobody
//! is told; what depends on it is found out by asking, later.

use std::path::Path;

/// Identifies a watched file to its owner.
pub type Key = (u64, u64);

#[cfg(target_os = "linux")]
mod imp {
    use std::collections::BTreeMap;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

    use super::Key;
    use crate::os::disk;
    use crate::tasks::Thread;

    struct Shared {
        fd: OwnedFd,
        keys: Mutex<BTreeMap<i32, Key>>,
        stop: AtomicBool,
    }

    impl Drop for Shared {
        fn drop(&mut self) {
            disk::forget_descriptor(self.fd.as_raw_fd());
        }
    }

    pub struct Watch {
        shared: Arc<Shared>,
        thread: Option<Thread>,
    }

    impl Watch {
        pub fn start(told: impl Fn(Key) + Send + 'static) -> Option<Watch> {
            let fd = inotify::init(CreateFlags::CLOEXEC).ok()?;
            disk::keep_descriptor(fd.as_raw_fd());
            let shared =
                Arc::new(Shared { fd, keys: Mutex::default(), stop: AtomicBool::new(false) });
            let mine = Arc::clone(&shared);
            let thread = Thread::spawn("litestream-watch", move || watch(&mine, &told)).ok()?;
            Some(Watch { shared, thread: Some(thread) })
        }

        pub fn add(&self, path: &Path, key: Key) {
            let mut keys = self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(id) = inotify::add_watch(&self.shared.fd, path, WatchFlags::CLOSE_WRITE) {
                keys.insert(id, key);
            }
        }

        pub fn remove(&self, key: Key) {
            let mut keys = self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.retain(|id, of| {
                if *of == key {
                    // It is gone already when its file is.
                    let _ = inotify::remove_watch(&self.shared.fd, *id);
                }
                *of != key
            });
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            self.shared.stop.store(true, Ordering::Release);
            // The end of a watch is an event as well, and wakes the thread.
            let any = inotify::add_watch(&self.shared.fd, Path::new("/"), WatchFlags::DELETE_SELF);
            let woken = any.and_then(|id| inotify::remove_watch(&self.shared.fd, id));
            if let (Ok(()), Some(thread)) = (woken, self.thread.take()) {
                thread.join();
            }
        }
    }

    fn watch(shared: &Shared, told: &impl Fn(Key)) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut events = inotify::Reader::new(&shared.fd, &mut buffer);
        loop {
            let id = match events.next() {
                Ok(event) => event.wd(),
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            };
            if shared.stop.load(Ordering::Acquire) {
                return;
            }
            let key = {
                let keys = shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
                keys.get(&id).copied()
            };
            if let Some(key) = key {
                told(key);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::path::Path;

    use super::Key;

    pub struct Watch;

    impl Watch {
        pub fn start(_: impl Fn(Key) + Send + 'static) -> Option<Watch> {
            None
        }

        pub fn add(&self, _: &Path, _: Key) {}

        pub fn remove(&self, _: Key) {}
    }
}

/// Tells whenever somebody closes one of some files that he could write.
pub struct Watch(imp::Watch);

impl Watch {
    /// Calls `told` with the key of a file, on a thread of its own, until the
    /// watch is dropped. `None`: the system cannot tell.
    pub fn start(told: impl Fn(Key) + Send + 'static) -> Option<Watch> {
        #[cfg(feature = "simulation")]
        if crate::tasks::simulated::current().is_some() {
            return None;
        }
        imp::Watch::start(told).map(Watch)
    }

    /// Watches the file at `path`, which exists.
    pub fn add(&self, path: &Path, key: Key) {
        self.0.add(path, key);
    }

    /// Watches the files of `key` no longer.
    pub fn remove(&self, key: Key) {
        self.0.remove(key);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::os::disk::File;

    #[test]
    fn tells_when_a_file_is_let_go_and_ends_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        drop(File::open_private(&path, None).unwrap());
        let (send, told) = mpsc::channel();
        let watch = Watch::start(move |key| send.send(key).unwrap()).unwrap();
        watch.add(&path, (1, 2));
        let held = File::open_private(&path, None).unwrap();
        drop(File::open(&path).unwrap());
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
        drop(held);
        assert_eq!(told.recv_timeout(Duration::from_secs(20)).unwrap(), (1, 2));
        watch.remove((1, 2));
        drop(File::open_private(&path, None).unwrap());
        drop(watch);
        assert!(told.recv().is_err());
    }
}
