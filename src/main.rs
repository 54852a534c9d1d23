//! The `litestream` command.

fn main() {}
