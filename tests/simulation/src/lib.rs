//! A simulated world for the library: one seed decides clock, scheduling, faults
//! of storage and disk, crashes and what applications do; the oracle is plain
//! SQLite. See `src/manual/simulation.md`.

pub mod disk;
pub mod host;
pub mod image;
pub mod oracle;
pub mod restore;
pub mod rng;
pub mod run;
pub mod storage;
pub mod watch;
pub mod workload;
pub mod world;

use std::io::Write;
use std::sync::Once;

use world::World;

/// Makes this process's SQLite a simulated one. To be called before all else.
///
/// # Panics
/// When SQLite refuses.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            match world::current() {
                Some(world) => world.fail(&format!("panic: {info}")),
                None => before(info),
            };
        }));
        if let Err(rc) = litestream_vfs::simulation::install(Box::new(host::Host)) {
            panic!("SQLite refuses the simulated host: {rc}");
        }
        // The first connection of all loads the extension, which registers its VFS.
        drop(rusqlite::Connection::open_in_memory());
    });
}

/// Ends this process with the story of a world that cannot go on.
fn abort(world: &World, why: &str) -> ! {
    let mut text = world.story(200).join("\n");
    text.push_str(&format!("\nSTUCK: {why}\n"));
    // Nothing else can be told to: no thread of the world can run.
    let _ = std::io::stderr().write_all(text.as_bytes());
    std::process::exit(70);
}
