//! Fuzzes the reader and the compiler: `cargo run --release -p policy --example fuzz -- FIRST_SEED COUNT`.
//!
//! The same cases as the short test in `tests/hostile.rs`, as many as wanted; a panic names its seed. With `-` instead of
//! a seed one case is read from standard input, for fuzzers that bring their own bytes.

#[path = "../tests/common/dice.rs"]
mod dice;
#[path = "../tests/common/fuzz.rs"]
mod fuzz;

use std::io::Read;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "1".into());
    if first == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).expect("standard input can be read");
        println!("{}", if fuzz::survive(&bytes, 1) { "taken" } else { "refused" });
        return;
    }
    let first: u64 = first.parse().expect("the first seed is a number");
    let count: u64 = arguments.next().map_or(100_000, |count| count.parse().expect("the count is a number"));
    let mut taken = 0;
    for seed in first..first + count {
        let bytes = fuzz::mutated(seed);
        let outcome = std::panic::catch_unwind(|| fuzz::survive(&bytes, seed));
        taken += u64::from(outcome.unwrap_or_else(|_| panic!("seed {seed}: {}", String::from_utf8_lossy(&bytes))));
    }
    println!("{count} policies from seed {first}: {taken} taken, {} refused, no panic", count - taken);
}
